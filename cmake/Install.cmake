# SPDX-License-Identifier: MIT
# Install rules. Everything goes under include/ and share/: a header-only library is the same on
# every architecture.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

target_include_directories(kvm-hpp INTERFACE "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")

set(kvm_hpp_cmake_dir "${CMAKE_INSTALL_DATADIR}/cmake/kvm-hpp")
set(kvm_hpp_pkgconfig_dir "${CMAKE_INSTALL_DATADIR}/pkgconfig")

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/kvm" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.hpp" PATTERN "*.inc")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/kvm-hpp")

install(TARGETS kvm-hpp EXPORT kvm-hpp-targets)
install(EXPORT kvm-hpp-targets NAMESPACE kvm-hpp:: DESTINATION "${kvm_hpp_cmake_dir}")
configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/kvm-hpp-config.cmake.in"
  "${PROJECT_BINARY_DIR}/kvm-hpp-config.cmake"
  INSTALL_DESTINATION "${kvm_hpp_cmake_dir}"
  NO_SET_AND_CHECK_MACRO)
# Before 1.0 the minor version may break the API.
if(PROJECT_VERSION VERSION_LESS 1)
  set(kvm_hpp_compatibility SameMinorVersion)
else()
  set(kvm_hpp_compatibility SameMajorVersion)
endif()
write_basic_package_version_file(
  "${PROJECT_BINARY_DIR}/kvm-hpp-config-version.cmake"
  COMPATIBILITY ${kvm_hpp_compatibility} ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/kvm-hpp-config.cmake"
              "${PROJECT_BINARY_DIR}/kvm-hpp-config-version.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/kvm-hpp-requirements.cmake"
        DESTINATION "${kvm_hpp_cmake_dir}")

# The pkg-config file finds its prefix from where it lies, so that an installed tree can be moved.
if(IS_ABSOLUTE "${CMAKE_INSTALL_DATADIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(kvm_hpp_pc_prefix "${CMAKE_INSTALL_PREFIX}")
  set(kvm_hpp_pc_includedir "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
  # pkg-config itself escapes what pcfiledir stands for, and nothing else.
  string(REPLACE " " "\\ " kvm_hpp_pc_prefix "${kvm_hpp_pc_prefix}")
  string(REPLACE " " "\\ " kvm_hpp_pc_includedir "${kvm_hpp_pc_includedir}")
else()
  file(RELATIVE_PATH kvm_hpp_pc_up "/${kvm_hpp_pkgconfig_dir}" "/")
  set(kvm_hpp_pc_prefix "\${pcfiledir}/${kvm_hpp_pc_up}")
  string(REPLACE " " "\\ " kvm_hpp_pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file("${PROJECT_SOURCE_DIR}/packaging/kvm-hpp.pc.in" "${PROJECT_BINARY_DIR}/kvm-hpp.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/kvm-hpp.pc" DESTINATION "${kvm_hpp_pkgconfig_dir}")
