# SPDX-License-Identifier: MIT
# How a folder of test sources becomes ctest cases.
include(GoogleTest)

set(KVM_HPP_TEST_FILES ".*" CACHE STRING
    "Regular expression: only test files whose name matches are built (to work on a few)")
option(KVM_HPP_NO_EXCEPTIONS_TWINS
       "Build the unit and kvm tests a second time with -fno-exceptions" ON)

# The architecture, as test files name it.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(KVM_HPP_TEST_ARCH x86)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  set(KVM_HPP_TEST_ARCH arm64)
else()
  set(KVM_HPP_TEST_ARCH "${CMAKE_SYSTEM_PROCESSOR}")
endif()

# kvm_hpp_find_compilers(): sets KVM_HPP_GXX and KVM_HPP_CLANGXX to the compiler in use and to the
# other of g++ and clang++, where that is installed: for tests of what compilers say and make.
macro(kvm_hpp_find_compilers)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    set(KVM_HPP_CLANGXX "${CMAKE_CXX_COMPILER}")
  else()
    set(KVM_HPP_GXX "${CMAKE_CXX_COMPILER}")
  endif()
  if(NOT CMAKE_CROSSCOMPILING)
    find_program(KVM_HPP_GXX g++)
    find_program(KVM_HPP_CLANGXX clang++)
  endif()
endmacro()

# kvm_hpp_test_sources(<variable>): the sources of the current folder. *_test.cpp can be narrowed
# with KVM_HPP_TEST_FILES; any other .cpp is support and always there. A file whose subject or whose
# guest is of one architecture says so on a line of its own: // needs: x86 (or arm64). Under thread
# sanitizer only the files that start threads are built.
function(kvm_hpp_test_sources variable)
  file(GLOB support CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cpp")
  set(tests ${support})
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  list(FILTER support EXCLUDE REGEX "_test\\.cpp$")
  set(chosen)
  foreach(file IN LISTS tests)
    get_filename_component(name "${file}" NAME)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
    file(STRINGS "${file}" arch REGEX "^// needs: (x86|arm64)$" LIMIT_COUNT 1)
    if(arch AND NOT arch STREQUAL "// needs: ${KVM_HPP_TEST_ARCH}")
      continue()
    endif()
    if(KVM_HPP_SANITIZE STREQUAL "thread")  # It has nothing to say of what has one thread.
      file(STRINGS "${file}" threads REGEX "std::j?thread|pthread_|support/kicking" LIMIT_COUNT 1)
      if(NOT threads)
        continue()
      endif()
    endif()
    if(name MATCHES "${KVM_HPP_TEST_FILES}")
      list(APPEND chosen "${file}")
    endif()
  endforeach()
  if(chosen)
    list(APPEND chosen ${support})
  endif()
  set(${variable} ${chosen} PARENT_SCOPE)
endfunction()

# kvm_hpp_add_gtest(<target> PREFIX <ctest name prefix> LABEL <label> [TIMEOUT <seconds>]
#                   [ROUNDS <percent>] SOURCES <file>... [OPTIONS <compile option>...]
#                   [LIBRARIES <target>...])
# One program, one ctest case per TEST. GTEST_SKIP is ctest's "Skipped". The cases of suites whose
# name ends in Serial run alone: for what measures time or needs all cores. ROUNDS is for the second
# build of the same tests: of what they repeat, so much is enough. No source, no program.
function(kvm_hpp_add_gtest target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "PREFIX;LABEL;TIMEOUT;ROUNDS" "SOURCES;OPTIONS;LIBRARIES")
  if(NOT arg_SOURCES)
    return()
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  kvm_hpp_add_program(${target} ${arg_SOURCES})
  target_compile_options(${target} PRIVATE ${arg_OPTIONS})
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_link_libraries(${target} PRIVATE ${arg_LIBRARIES} GTest::gtest GTest::gtest_main)
  list(LENGTH arg_SOURCES count)
  if(count GREATER 4)
    # What they all include is read once. (That each header stands alone is tested elsewhere.)
    target_precompile_headers(${target} PRIVATE <gtest/gtest.h> <kvm/kvm.hpp>)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
      # GCC 12 sees std::string overrun itself, where its headers are precompiled, and an empty
      # std::optional's value used.
      target_compile_options(${target} PRIVATE -Wno-array-bounds -Wno-restrict
                                               -Wno-maybe-uninitialized)
    endif()
  endif()
  set(properties LABELS "${arg_LABEL}" TIMEOUT ${arg_TIMEOUT})
  if(arg_ROUNDS)
    list(APPEND properties ENVIRONMENT KVM_HPP_TEST_ROUNDS_PERCENT=${arg_ROUNDS})
  endif()
  set(discovery NO_PRETTY_VALUES DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60 TEST_PREFIX "${arg_PREFIX}.")
  gtest_discover_tests(${target} ${discovery} TEST_FILTER "-*Serial.*"
                       PROPERTIES ${properties})
  gtest_discover_tests(${target} ${discovery} TEST_FILTER "*Serial.*"
                       PROPERTIES ${properties} RUN_SERIAL ON)
endfunction()

# kvm_hpp_wrap_calls(<target> <file>...): the linker gives the program's calls of the functions that
# the files name to __wrap_ and the name.
function(kvm_hpp_wrap_calls target)
  foreach(file IN LISTS ARGN)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
    file(STRINGS "${file}" calls)
    foreach(call IN LISTS calls)
      target_link_options(${target} PRIVATE "LINKER:--wrap=${call}")
      if(KVM_HPP_STATIC)
        # The replacements refer to the real functions weakly, which takes nothing out of an archive.
        target_link_options(${target} PRIVATE "LINKER:--undefined=${call}")
      endif()
    endforeach()
  endforeach()
endfunction()

# kvm_hpp_add_test_folder(<folder> [TIMEOUT <seconds>]): the current folder's tests, and their twin
# without exceptions. A file whose subject is exceptions stays out of the twin by saying so on a
# line of its own: // needs: exceptions
function(kvm_hpp_add_test_folder folder)
  kvm_hpp_test_sources(sources)
  kvm_hpp_add_gtest(kvm-hpp-${folder} PREFIX ${folder} LABEL ${folder} SOURCES ${sources} ${ARGN})
  if(KVM_HPP_NO_EXCEPTIONS_TWINS)
    set(twin)
    foreach(file IN LISTS sources)
      set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
      file(STRINGS "${file}" marker REGEX "^// needs: exceptions" LIMIT_COUNT 1)
      if(NOT marker)
        list(APPEND twin "${file}")
      endif()
    endforeach()
    kvm_hpp_add_gtest(kvm-hpp-${folder}-no-exceptions PREFIX ${folder}.no_exceptions LABEL ${folder}
                      ROUNDS 30 SOURCES ${twin} OPTIONS -fno-exceptions -O0 ${ARGN})
  endif()
endfunction()
