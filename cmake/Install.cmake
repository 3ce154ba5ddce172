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
write_basic_package_version_file(
  "${PROJECT_BINARY_DIR}/kvm-hpp-config-version.cmake"
  COMPATIBILITY SameMajorVersion ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/kvm-hpp-config.cmake"
              "${PROJECT_BINARY_DIR}/kvm-hpp-config-version.cmake"
        DESTINATION "${kvm_hpp_cmake_dir}")

# The pkg-config file finds its prefix from where it lies, so that an installed tree can be moved.
if(IS_ABSOLUTE "${CMAKE_INSTALL_DATADIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(kvm_hpp_pc_prefix "${CMAKE_INSTALL_PREFIX}")
  set(kvm_hpp_pc_includedir "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
else()
  file(RELATIVE_PATH kvm_hpp_pc_up "/${kvm_hpp_pkgconfig_dir}" "/")
  set(kvm_hpp_pc_prefix "\${pcfiledir}/${kvm_hpp_pc_up}")
  set(kvm_hpp_pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file("${PROJECT_SOURCE_DIR}/packaging/kvm-hpp.pc.in" "${PROJECT_BINARY_DIR}/kvm-hpp.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/kvm-hpp.pc" DESTINATION "${kvm_hpp_pkgconfig_dir}")
