# SPDX-License-Identifier: MIT
# Included by run.cmake. The hello example with kvm.hpp beside it and nothing else of the library,
# with the kernel's header before and after.
set(project "${WORK_DIR}/amalgamated")
file(REMOVE_RECURSE "${project}")
file(MAKE_DIRECTORY "${project}")
file(COPY_FILE "${one}/kvm.hpp" "${project}/kvm.hpp")
file(READ "${LIBRARY_DIR}/examples/hello/hello.cpp" program)
string(REPLACE "#include <kvm/kvm.hpp>" "#include \"kvm.hpp\"" program "${program}")
if(NOT program MATCHES "#include \"kvm.hpp\"")
  message(FATAL_ERROR "hello.cpp does not include <kvm/kvm.hpp>")
endif()
file(WRITE "${project}/before.cpp" "#include <linux/kvm.h>\n${program}")
file(WRITE "${project}/after.cpp" "#include \"kvm.hpp\"\n#include <linux/kvm.h>\n${program}")
run("${CMAKE_COMMAND}" -E chdir "${project}"
    "${CXX}" -std=c++20 -Wall -Wextra -Werror -pthread before.cpp -o consumer)
run("${CMAKE_COMMAND}" -E chdir "${project}" "${CXX}" -std=c++20 -Wall -Wextra -Werror -fsyntax-only after.cpp)
run_guest("${project}/consumer")
