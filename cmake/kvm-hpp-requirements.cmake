# SPDX-License-Identifier: MIT
# What CMake can know about a target that kvm-hpp cannot be used on. The headers refuse the same, and
# more; this says it before anything is compiled. Installed beside the package.

# kvm_hpp_unmet_requirement(<variable>): why not, in one sentence, or nothing.
function(kvm_hpp_unmet_requirement variable)
  set(unmet)
  if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
    set(unmet "kvm-hpp talks to Linux KVM: it cannot be used on ${CMAKE_SYSTEM_NAME}.")
  elseif(CMAKE_SIZEOF_VOID_P AND NOT CMAKE_SIZEOF_VOID_P EQUAL 8)
    set(unmet "kvm-hpp supports 64-bit targets only (x86_64, arm64, riscv64).")
  elseif(CMAKE_CXX_BYTE_ORDER STREQUAL "BIG_ENDIAN")
    set(unmet "kvm-hpp supports little-endian targets only (x86_64, arm64, riscv64).")
  elseif((CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
         OR (CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14))
    set(unmet "kvm-hpp needs GCC 12 or Clang 14, or newer: this is ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}.")
  elseif(CMAKE_CXX_COMPILER_ID AND NOT "cxx_std_20" IN_LIST CMAKE_CXX_COMPILE_FEATURES)
    set(unmet "kvm-hpp needs C++20, which CMake does not know how to ask of this compiler (${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}).")
  endif()
  set(${variable} "${unmet}" PARENT_SCOPE)
endfunction()
