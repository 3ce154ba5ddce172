# SPDX-License-Identifier: MIT
# Included by run.cmake. What is installed, and where: once with --prefix and then moved, once staged
# with DESTDIR, once with absolute folders.
file(REMOVE_RECURSE "${WORK_DIR}/library" "${WORK_DIR}/prefix" "${prefix}" "${WORK_DIR}/staged")

# As a packager would: no tests, and nothing but the compiler and CMake looked for.
run("${CMAKE_COMMAND}" ${toolchain} -S "${LIBRARY_DIR}" -B "${WORK_DIR}/library"
    -DKVM_HPP_TESTS=OFF -DKVM_HPP_BENCH=OFF -DKVM_HPP_EXAMPLES=OFF -DCMAKE_INSTALL_MESSAGE=NEVER
    -DCMAKE_DISABLE_FIND_PACKAGE_GTest=ON -DCMAKE_DISABLE_FIND_PACKAGE_benchmark=ON)
run("${CMAKE_COMMAND}" --install "${WORK_DIR}/library" --prefix "${WORK_DIR}/prefix")
file(RENAME "${WORK_DIR}/prefix" "${prefix}")

# All headers and the package's files, and nothing else: no test, no build's leavings.
file(GLOB_RECURSE expected RELATIVE "${LIBRARY_DIR}" "${LIBRARY_DIR}/include/*")
list(APPEND expected
     share/cmake/kvm-hpp/kvm-hpp-config.cmake
     share/cmake/kvm-hpp/kvm-hpp-config-version.cmake
     share/cmake/kvm-hpp/kvm-hpp-requirements.cmake
     share/cmake/kvm-hpp/kvm-hpp-targets.cmake
     share/licenses/kvm-hpp/LICENSE
     share/pkgconfig/kvm-hpp.pc)
list(SORT expected)

function(check_tree root)
  file(GLOB_RECURSE installed RELATIVE "${root}" "${root}/*")
  list(SORT installed)
  if(NOT installed STREQUAL expected)
    set(lacking ${expected})
    set(surplus ${installed})
    list(REMOVE_ITEM lacking "" ${installed})
    list(REMOVE_ITEM surplus "" ${expected})
    message(FATAL_ERROR "${root} lacks '${lacking}' and has besides '${surplus}'")
  endif()
  list(TRANSFORM installed PREPEND "${root}/")
  must_not_name(${installed})
endfunction()
check_tree("${prefix}")

# Staged: the same files, none of which may know the stage.
set(ENV{DESTDIR} "${WORK_DIR}/staged")
run("${CMAKE_COMMAND}" --install "${WORK_DIR}/library" --prefix "/opt/an odd prefix")
set(ENV{DESTDIR})
check_tree("${WORK_DIR}/staged/opt/an odd prefix")
foreach(file IN LISTS expected)
  file(SHA256 "${prefix}/${file}" moved)
  file(SHA256 "${WORK_DIR}/staged/opt/an odd prefix/${file}" staged)
  if(NOT moved STREQUAL staged)
    message(FATAL_ERROR "${file} depends on where it is installed")
  endif()
endforeach()

# With absolute folders, as some distributions set them, the .pc file cannot find its prefix from
# where it lies.
find_program(pkg_config NAMES pkg-config pkgconf)
if(pkg_config)
  set(absolute "/opt/an odd prefix/include")
  run("${CMAKE_COMMAND}" -S "${LIBRARY_DIR}" -B "${WORK_DIR}/library"
      "-DCMAKE_INSTALL_INCLUDEDIR=${absolute}")
  set(ENV{PKG_CONFIG_PATH} "${WORK_DIR}/library")
  execute_process(COMMAND "${pkg_config}" --variable=includedir kvm-hpp OUTPUT_VARIABLE includedir
                  OUTPUT_STRIP_TRAILING_WHITESPACE)
  execute_process(COMMAND sh -c "eval \"printf '%s;' $(\"$0\" --cflags kvm-hpp)\"" "${pkg_config}"
                  OUTPUT_VARIABLE flags OUTPUT_STRIP_TRAILING_WHITESPACE)
  string(REPLACE "\\ " " " includedir "${includedir}")
  if(NOT includedir STREQUAL absolute)
    message(FATAL_ERROR "kvm-hpp.pc: includedir is '${includedir}', not '${absolute}'")
  elseif(NOT "-I${absolute}" IN_LIST flags)
    message(FATAL_ERROR "kvm-hpp.pc: the flags are '${flags}', without '-I${absolute}'")
  endif()
endif()
