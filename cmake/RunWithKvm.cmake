# SPDX-License-Identifier: MIT
# cmake -P RunWithKvm.cmake -- <program> <argument>...
# Runs a program that needs /dev/kvm, and is a skip that says why where there is none. It fails when
# the program fails or prints nothing.
set(command)
set(after_dashes FALSE)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  if(after_dashes)
    list(APPEND command "${CMAKE_ARGV${i}}")
  elseif(CMAKE_ARGV${i} STREQUAL "--")
    set(after_dashes TRUE)
  endif()
endforeach()

execute_process(COMMAND sh -c "test -e /dev/kvm" RESULT_VARIABLE missing)
execute_process(COMMAND sh -c "test -r /dev/kvm && test -w /dev/kvm" RESULT_VARIABLE refused)
if(missing)
  message("Skipped\nno /dev/kvm on this host: built, but not run\n[  SKIPPED ]")
  return()
elseif(refused)
  message("Skipped\n/dev/kvm may not be opened by this user: built, but not run\n[  SKIPPED ]")
  return()
endif()

execute_process(COMMAND ${command} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
message("${output}${errors}")
if(NOT result EQUAL 0)
  list(JOIN command " " command)
  message(FATAL_ERROR "${command} ended with ${result}")
elseif(output STREQUAL "")
  message(FATAL_ERROR "it printed nothing")
endif()
