# SPDX-License-Identifier: MIT
# cmake -DLIBRARY_DIR=... -DWORK_DIR=... -DCXX=... -P configure.cmake
# What CMake says on a system, target or compiler that the library refuses: one error, with the
# reason, whether the library is a subdirectory, an installed package or the project itself.
cmake_minimum_required(VERSION 3.22)
file(REMOVE_RECURSE "${WORK_DIR}")
string(REPLACE " Multi-Config" "" GENERATOR "${GENERATOR}")
set(toolchain -G "${GENERATOR}" "-DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM}" "-DCMAKE_CXX_COMPILER=${CXX}")
set(alone -DKVM_HPP_TESTS=OFF -DKVM_HPP_BENCH=OFF -DKVM_HPP_EXAMPLES=OFF)
set(checked 0)

execute_process(COMMAND "${CMAKE_COMMAND}" ${toolchain} -S "${LIBRARY_DIR}" -B "${WORK_DIR}/library"
                        ${alone}
                COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${CMAKE_COMMAND}" --install "${WORK_DIR}/library" --prefix "${WORK_DIR}/prefix"
                OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)

# configure(<what>): configures a project in each way, into output_<way> and result_<way>.
function(configure pretend)
  foreach(way add_subdirectory find_package)
    execute_process(
      COMMAND "${CMAKE_COMMAND}" ${toolchain} -S "${CMAKE_CURRENT_LIST_DIR}/project"
              -B "${WORK_DIR}/project" "-DLIBRARY_DIR=${LIBRARY_DIR}"
              "-DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix" -DWAY=${way} "-DPRETEND=${pretend}"
      RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE output)
    set(result_${way} "${result}" PARENT_SCOPE)
    set(output_${way} "${output}" PARENT_SCOPE)
  endforeach()
  # As the project itself: the same variable is set right after its project().
  list(JOIN pretend " \"" assignment)
  file(WRITE "${WORK_DIR}/pretend.cmake" "set(${assignment}\")\n")
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -S "${LIBRARY_DIR}" -B "${WORK_DIR}/library" ${alone}
            "-DCMAKE_PROJECT_kvm-hpp_INCLUDE=${WORK_DIR}/pretend.cmake"
    RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE output)
  set(result_itself "${result}" PARENT_SCOPE)
  set(output_itself "${output}" PARENT_SCOPE)
endfunction()

# refused(<sentence> <variable> <value>): that there is this sentence, and one error.
macro(refused sentence)
  configure("${ARGN}")
  foreach(way add_subdirectory find_package itself)
    string(REGEX REPLACE "[ \n]+" " " said "${output_${way}}")  # CMake breaks lines.
    string(REGEX MATCHALL "CMake Error" errors "${said}")
    list(LENGTH errors errors)
    string(FIND "${said}" "${sentence}" at)
    if(result_${way} EQUAL 0)
      message(FATAL_ERROR "${way}, ${ARGN}: it is configured, and must not be")
    elseif(at EQUAL -1 OR NOT errors EQUAL 1)
      message(FATAL_ERROR "${way}, ${ARGN}: ${errors} errors, and '${sentence}' should be the one:\n"
                          "${output_${way}}")
    endif()
    math(EXPR checked "${checked} + 1")
  endforeach()
endmacro()

# accepted(<variable> <value>): that this is no reason to refuse.
macro(accepted)
  configure("${ARGN}")
  foreach(way add_subdirectory find_package itself)
    if(NOT result_${way} EQUAL 0)
      message(FATAL_ERROR "${way}, ${ARGN}: it is refused:\n${output_${way}}")
    endif()
    math(EXPR checked "${checked} + 1")
  endforeach()
endmacro()

accepted(CMAKE_SYSTEM_NAME Linux)
refused("cannot be used on FreeBSD" CMAKE_SYSTEM_NAME FreeBSD)
refused("64-bit targets only" CMAKE_SIZEOF_VOID_P 4)
refused("little-endian targets only" CMAKE_CXX_BYTE_ORDER BIG_ENDIAN)
refused("needs C++20, which CMake does not know how to ask of this compiler"
        CMAKE_CXX_COMPILE_FEATURES cxx_std_17)
execute_process(COMMAND "${CXX}" -dM -E -x c++ /dev/null OUTPUT_VARIABLE macros)
if(macros MATCHES "__clang__")
  refused("Clang 13.0.1" CMAKE_CXX_COMPILER_VERSION 13.0.1)
  accepted(CMAKE_CXX_COMPILER_VERSION 14.0.0)
else()
  refused("GNU 11.4.0" CMAKE_CXX_COMPILER_VERSION 11.4.0)
  accepted(CMAKE_CXX_COMPILER_VERSION 12.1.0)
endif()
message("${checked} configurations")
