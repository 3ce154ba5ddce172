# SPDX-License-Identifier: MIT
# Included by run.cmake. The Conan recipe without Conan: conan/replay.py runs it.
find_program(python python3)
if(NOT python)
  message("Skipped\npython3, in which the recipe is written, is not installed\n[  SKIPPED ]")
  return()
endif()
run("${python}" "${CMAKE_CURRENT_LIST_DIR}/conan/replay.py" "${LIBRARY_DIR}" "${WORK_DIR}/conan"
    "${VERSION}" "${CMAKE_COMMAND}" ${toolchain})
