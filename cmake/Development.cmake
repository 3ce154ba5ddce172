# SPDX-License-Identifier: MIT
# What our own tests, benchmarks and examples are compiled with. Users of kvm-hpp::kvm-hpp get none
# of it.
option(KVM_HPP_WERROR "Treat warnings as errors in kvm-hpp's own programs" ${PROJECT_IS_TOP_LEVEL})
set(KVM_HPP_SANITIZE "" CACHE STRING
    "Sanitizers for kvm-hpp's own programs: empty, 'address,undefined' or 'thread'")
option(KVM_HPP_STATIC
       "Link kvm-hpp's own programs statically, to run them where no library of ours is" OFF)

if(PROJECT_IS_TOP_LEVEL)
  get_property(kvm_hpp_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
  if(NOT CMAKE_BUILD_TYPE AND NOT kvm_hpp_multi_config)
    set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
  endif()
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
endif()

add_library(kvm-hpp-dev INTERFACE)
target_link_libraries(kvm-hpp-dev INTERFACE kvm-hpp::kvm-hpp)
target_compile_options(
  kvm-hpp-dev INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow
                        $<$<BOOL:${KVM_HPP_WERROR}>:-Werror>)
if(KVM_HPP_SANITIZE)
  target_compile_options(
    kvm-hpp-dev
    INTERFACE -fsanitize=${KVM_HPP_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(kvm-hpp-dev INTERFACE -fsanitize=${KVM_HPP_SANITIZE})
  if(KVM_HPP_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC warns that thread sanitizer does not model fences. The library's fences stand between a
    # store and a system call; no test relies on the sanitizer seeing them.
    target_compile_options(kvm-hpp-dev INTERFACE -Wno-tsan)
  endif()
endif()
if(KVM_HPP_STATIC AND KVM_HPP_SANITIZE)
  message(FATAL_ERROR "KVM_HPP_STATIC and KVM_HPP_SANITIZE: sanitizers cannot be linked statically.")
endif()

# kvm_hpp_add_program(<target> <source>...): a program of ours, with our warnings and sanitizers.
# With KVM_HPP_STATIC it is static, unless its property KVM_HPP_DYNAMIC is on.
function(kvm_hpp_add_program target)
  add_executable(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE kvm-hpp-dev)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  if(KVM_HPP_STATIC)
    target_link_options(${target} PRIVATE
                        $<$<NOT:$<BOOL:$<TARGET_PROPERTY:KVM_HPP_DYNAMIC>>>:-static>)
  endif()
endfunction()
