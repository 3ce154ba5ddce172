# SPDX-License-Identifier: MIT
# cmake -DCASE=... -DLIBRARY_DIR=... -DWORK_DIR=... -P run.cmake
# Copies one consumer project out of the tree, adds the hello example as its program, configures,
# builds and runs it.
cmake_minimum_required(VERSION 3.22)

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}\nended with ${result}")
  endif()
endfunction()

# One configuration is enough, and its program then lies where it is looked for.
string(REPLACE " Multi-Config" "" GENERATOR "${GENERATOR}")
set(toolchain -G "${GENERATOR}" "-DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM}" "-DCMAKE_CXX_COMPILER=${CXX}")
set(prefix "${WORK_DIR}/moved")

if(CASE STREQUAL "install")
  file(REMOVE_RECURSE "${WORK_DIR}/library" "${WORK_DIR}/prefix" "${prefix}")
  # As a packager would: no tests, and nothing but the compiler and CMake looked for.
  run("${CMAKE_COMMAND}" ${toolchain} -S "${LIBRARY_DIR}" -B "${WORK_DIR}/library"
      -DKVM_HPP_TESTS=OFF -DKVM_HPP_BENCH=OFF -DKVM_HPP_EXAMPLES=OFF
      -DCMAKE_DISABLE_FIND_PACKAGE_GTest=ON -DCMAKE_DISABLE_FIND_PACKAGE_benchmark=ON)
  run("${CMAKE_COMMAND}" --install "${WORK_DIR}/library" --prefix "${WORK_DIR}/prefix")
  file(RENAME "${WORK_DIR}/prefix" "${prefix}")

  file(GLOB_RECURSE headers RELATIVE "${LIBRARY_DIR}" "${LIBRARY_DIR}/include/*")
  foreach(header IN LISTS headers)
    if(NOT EXISTS "${prefix}/${header}")
      message(FATAL_ERROR "${header} was not installed")
    endif()
  endforeach()
  file(GLOB_RECURSE installed "${prefix}/share/*")
  foreach(file IN LISTS installed)
    file(READ "${file}" text)
    foreach(path "${LIBRARY_DIR}" "${WORK_DIR}")
      string(FIND "${text}" "${path}" at)
      if(NOT at EQUAL -1)
        message(FATAL_ERROR "${file} names ${path}")
      endif()
    endforeach()
  endforeach()

  file(READ "${LIBRARY_DIR}/packaging/vcpkg/kvm-hpp/vcpkg.json" port)
  string(JSON port_version GET "${port}" version)
  if(NOT port_version STREQUAL VERSION)
    message(FATAL_ERROR "the vcpkg port is of ${port_version}, the headers of ${VERSION}")
  endif()
  return()
endif()

set(project "${WORK_DIR}/${CASE}")
file(REMOVE_RECURSE "${project}")
file(COPY "${CMAKE_CURRENT_LIST_DIR}/${CASE}/" DESTINATION "${project}")
file(COPY_FILE "${LIBRARY_DIR}/examples/hello/hello.cpp" "${project}/main.cpp")

set(arguments "-DKVM_HPP_DIR=${LIBRARY_DIR}" "-DKVM_HPP_EXPECTED_VERSION=${VERSION}")
if(CASE STREQUAL "find_package")
  list(APPEND arguments "-DCMAKE_PREFIX_PATH=${prefix}")
elseif(CASE STREQUAL "pkg_config")
  find_program(pkg_config NAMES pkg-config pkgconf)
  if(NOT pkg_config)
    message("Skipped\npkg-config is not installed\n[  SKIPPED ]")
    return()
  endif()
  set(ENV{PKG_CONFIG_PATH} "${prefix}/share/pkgconfig")
endif()
run("${CMAKE_COMMAND}" ${toolchain} -S "${project}" -B "${project}/build"
    -DCMAKE_BUILD_TYPE=Debug ${arguments})
run("${CMAKE_COMMAND}" --build "${project}/build")
run("${CMAKE_COMMAND}" -P "${LIBRARY_DIR}/cmake/RunWithKvm.cmake" -- "${project}/build/consumer")
