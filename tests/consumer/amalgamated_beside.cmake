# SPDX-License-Identifier: MIT
# Included by run.cmake. One program of two files, one with kvm.hpp and one with the split headers,
# and files that include both: nothing is defined twice, and handles cross from one to the other.
set(project "${WORK_DIR}/beside")
file(REMOVE_RECURSE "${project}")
file(COPY "${CMAKE_CURRENT_LIST_DIR}/amalgamated/beside/" DESTINATION "${project}")
file(COPY_FILE "${one}/kvm.hpp" "${project}/kvm.hpp")
set(compile "${CMAKE_COMMAND}" -E chdir "${project}" "${CXX}" -std=c++20 -Wall -Wextra -Werror
            "-I${LIBRARY_DIR}/include")
run(${compile} -c split.cpp -o split.o)
run(${compile} -c main.cpp -o main.o)
run(${compile} -fsyntax-only both.cpp)
run(${compile} -pthread split.o main.o -o consumer)

# Functions that both define must be one in the program: the linker keeps the first, whichever.
execute_process(COMMAND sh -c "nm -C split.o | grep -c ' W kvm::'" WORKING_DIRECTORY "${project}"
                OUTPUT_VARIABLE shared OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT shared GREATER 100)
  message(FATAL_ERROR "split.cpp shares only '${shared}' functions of the library")
endif()
run(${compile} -pthread main.o split.o -o consumer_the_other_way)
run_guest("${project}/consumer")
run_guest("${project}/consumer_the_other_way")
