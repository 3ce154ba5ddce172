# SPDX-License-Identifier: MIT
# cmake -DPORTFILE=... -DPORT=... -DCURRENT_PACKAGES_DIR=... -P replay.cmake
# Stands in for vcpkg: runs a portfile with functions that do what vcpkg's of the same name do for a
# header-only port. One that is not here makes CMake stop at an unknown command.
cmake_minimum_required(VERSION 3.22)
set(build "${CURRENT_BUILDTREES_DIR}/${PORT}-rel")
file(MAKE_DIRECTORY "${CURRENT_PACKAGES_DIR}")

function(vcpkg_run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}\nended with ${result}")
  endif()
endfunction()

function(vcpkg_cmake_configure)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "SOURCE_PATH" "OPTIONS")
  if(arg_UNPARSED_ARGUMENTS OR NOT EXISTS "${arg_SOURCE_PATH}/CMakeLists.txt")
    message(FATAL_ERROR "vcpkg_cmake_configure: ${ARGV}")
  elseif(NOT VCPKG_BUILD_TYPE STREQUAL "release")
    message(FATAL_ERROR "the port would be built twice")
  endif()
  vcpkg_run("${CMAKE_COMMAND}" -G "${GENERATOR}" "-DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM}"
            "-DCMAKE_CXX_COMPILER=${CXX}" -DCMAKE_BUILD_TYPE=Release
            "-DCMAKE_INSTALL_PREFIX=${CURRENT_PACKAGES_DIR}" ${arg_OPTIONS}
            -S "${arg_SOURCE_PATH}" -B "${build}")
  # vcpkg warns of options that the project does not know.
  file(STRINGS "${build}/CMakeCache.txt" unused REGEX "^KVM_HPP_[A-Z_]*:UNINITIALIZED=")
  if(unused)
    message(FATAL_ERROR "the project does not know the options ${unused}")
  endif()
endfunction()

function(vcpkg_cmake_install)
  vcpkg_run("${CMAKE_COMMAND}" --build "${build}" --target install)
endfunction()

# Moves the package to share/<port> and mends the paths that lead from there to the prefix.
function(vcpkg_cmake_config_fixup)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "CONFIG_PATH;PACKAGE_NAME" "")
  if(NOT arg_PACKAGE_NAME)
    set(arg_PACKAGE_NAME "${PORT}")
  endif()
  set(share "${CURRENT_PACKAGES_DIR}/share/${arg_PACKAGE_NAME}")
  file(GLOB files "${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH}/*")
  if(NOT files)
    message(FATAL_ERROR "there is nothing in ${arg_CONFIG_PATH}")
  endif()
  file(COPY ${files} DESTINATION "${share}")
  file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH}")
  get_filename_component(parent "${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH}" DIRECTORY)
  file(GLOB left "${parent}/*")
  if(NOT left)
    file(REMOVE_RECURSE "${parent}")
  endif()
  set(up "get_filename_component(_IMPORT_PREFIX \"\${_IMPORT_PREFIX}\" PATH)")
  file(GLOB files "${share}/*.cmake")
  foreach(file IN LISTS files)
    file(READ "${file}" text)
    string(REPLACE "${CURRENT_PACKAGES_DIR}" "\${_IMPORT_PREFIX}" text "${text}")
    string(REGEX REPLACE "\"\\\${CMAKE_CURRENT_LIST_DIR}/(\\.\\./?)+\" ABSOLUTE"
                         "\"\${CMAKE_CURRENT_LIST_DIR}/../../\" ABSOLUTE" text "${text}")
    string(REPLACE "${up}\n" "" text "${text}")
    string(REPLACE "get_filename_component(_IMPORT_PREFIX \"\${CMAKE_CURRENT_LIST_FILE}\" PATH)\n"
                   "get_filename_component(_IMPORT_PREFIX \"\${CMAKE_CURRENT_LIST_FILE}\" PATH)\n${up}\n${up}\n"
                   text "${text}")
    file(WRITE "${file}" "${text}")
  endforeach()
endfunction()

function(vcpkg_fixup_pkgconfig)
  foreach(folder lib share)
    file(GLOB files "${CURRENT_PACKAGES_DIR}/${folder}/pkgconfig/*.pc")
    foreach(file IN LISTS files)
      file(READ "${file}" text)
      if(NOT text MATCHES "(^|\n)prefix=")
        message(FATAL_ERROR "${file} has no prefix")
      endif()
      string(REGEX REPLACE "(^|\n)prefix=[^\n]*" "\\1prefix=\${pcfiledir}/../.." text "${text}")
      file(WRITE "${file}" "${text}")
    endforeach()
  endforeach()
endfunction()

function(vcpkg_install_copyright)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "FILE_LIST")
  list(LENGTH arg_FILE_LIST count)
  if(NOT count EQUAL 1 OR NOT EXISTS "${arg_FILE_LIST}")
    message(FATAL_ERROR "vcpkg_install_copyright: '${arg_FILE_LIST}'")
  endif()
  file(COPY_FILE "${arg_FILE_LIST}" "${CURRENT_PACKAGES_DIR}/share/${PORT}/copyright")
endfunction()

include("${PORTFILE}")
