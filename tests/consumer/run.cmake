# SPDX-License-Identifier: MIT
# cmake -DCASE=... -DLIBRARY_DIR=... -DWORK_DIR=... -P run.cmake
# Copies one consumer project out of the tree, adds the hello example as its program, builds it as
# its users would and runs it.
cmake_minimum_required(VERSION 3.22)

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}\nended with ${result}")
  endif()
endfunction()

# run_guest(<program>): runs the hello example and looks at what its guest wrote.
function(run_guest program)
  execute_process(COMMAND "${CMAKE_COMMAND}" -P "${LIBRARY_DIR}/cmake/RunWithKvm.cmake" -- "${program}"
                  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
  message("${output}${errors}")
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${program} failed")
  elseif(NOT errors MATCHES "Hello, KVM!" AND NOT errors MATCHES "\\[  SKIPPED \\]")
    message(FATAL_ERROR "${program} does not say what its guest wrote")
  endif()
endfunction()

# must_not_name(<file>...): that no file names the source or the build folder.
function(must_not_name)
  foreach(file IN LISTS ARGN)
    file(READ "${file}" text)
    foreach(path "${LIBRARY_DIR}" "${WORK_DIR}")
      string(FIND "${text}" "${path}" at)
      if(NOT at EQUAL -1)
        message(FATAL_ERROR "${file} names ${path}")
      endif()
    endforeach()
  endforeach()
endfunction()

# copy_tree(<folder>): the library as a clone or a release has it, without what is built in it.
function(copy_tree folder)
  file(REMOVE_RECURSE "${folder}")
  foreach(part CMakeLists.txt LICENSE cmake include packaging scripts)
    file(COPY "${LIBRARY_DIR}/${part}" DESTINATION "${folder}" PATTERN "__pycache__" EXCLUDE)
  endforeach()
endfunction()

# One configuration is enough, and its program then lies where it is looked for.
string(REPLACE " Multi-Config" "" GENERATOR "${GENERATOR}")
set(toolchain -G "${GENERATOR}" "-DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM}" "-DCMAKE_CXX_COMPILER=${CXX}")
set(prefix "${WORK_DIR}/moved to here")  # A space, as odd prefixes have.
set(one "${WORK_DIR}/one")               # The amalgamated header and nothing else.

if(CASE STREQUAL "install")
  include("${CMAKE_CURRENT_LIST_DIR}/install.cmake")
  return()
elseif(CASE MATCHES "^(vcpkg|conan|amalgamate|amalgamated|amalgamated_beside)$")
  include("${CMAKE_CURRENT_LIST_DIR}/${CASE}.cmake")
  return()
endif()

set(project "${WORK_DIR}/${CASE}")
file(REMOVE_RECURSE "${project}")
file(COPY "${CMAKE_CURRENT_LIST_DIR}/${CASE}/" DESTINATION "${project}")
file(COPY_FILE "${LIBRARY_DIR}/examples/hello/hello.cpp" "${project}/main.cpp")

# Without CMake: a shell script is all of the project.
if(CASE STREQUAL "include_path")
  run(sh "${project}/build.sh" "${CXX}" "${LIBRARY_DIR}/include")
  run_guest("${project}/consumer")
  return()
elseif(CASE STREQUAL "pkg_config")
  find_program(pkg_config NAMES pkg-config pkgconf)
  if(NOT pkg_config)
    message("Skipped\npkg-config is not installed\n[  SKIPPED ]")
    return()
  endif()
  set(ENV{PKG_CONFIG_PATH} "${prefix}/share/pkgconfig")
  run(sh "${project}/build.sh" "${CXX}" "${pkg_config}" "${VERSION}")
  run_guest("${project}/consumer")
  return()
endif()

set(arguments "-DKVM_HPP_DIR=${LIBRARY_DIR}" "-DKVM_HPP_EXPECTED_VERSION=${VERSION}")
if(CASE STREQUAL "find_package")
  list(APPEND arguments "-DCMAKE_PREFIX_PATH=${prefix}")
elseif(CASE STREQUAL "fetch_content")
  # An archive, as one would be fetched, on this machine: its unpacking is what is tried.
  copy_tree("${WORK_DIR}/archive/kvm-hpp")
  run("${CMAKE_COMMAND}" -E chdir "${WORK_DIR}/archive"
      "${CMAKE_COMMAND}" -E tar czf kvm-hpp.tar.gz kvm-hpp)
  list(APPEND arguments "-DKVM_HPP_ARCHIVE=${WORK_DIR}/archive/kvm-hpp.tar.gz"
       -DFETCHCONTENT_QUIET=OFF)
endif()
run("${CMAKE_COMMAND}" ${toolchain} -S "${project}" -B "${project}/build"
    -DCMAKE_BUILD_TYPE=Debug ${arguments})
run("${CMAKE_COMMAND}" --build "${project}/build")
run_guest("${project}/build/consumer")
