# SPDX-License-Identifier: MIT
# conan create packaging/conan
import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load
from conan.tools.layout import basic_layout
from conan.tools.scm import Version

required_conan_version = ">=2.0"


class KvmHpp(ConanFile):
    name = "kvm-hpp"
    description = "Header-only C++20 binding to Linux KVM"
    license = "MIT"
    topics = ("kvm", "virtualization", "linux", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    def _tree(self):
        return os.path.join(self.recipe_folder, os.pardir, os.pardir)

    def set_version(self):
        config = load(self, os.path.join(self._tree(), "include", "kvm", "detail", "config.hpp"))
        numbers = [
            re.search(rf"^#define KVM_HPP_VERSION_{part} (\d+)$", config, re.MULTILINE).group(1)
            for part in ("MAJOR", "MINOR", "PATCH")
        ]
        self.version = ".".join(numbers)

    def export_sources(self):
        for pattern in ("include/*", "LICENSE"):
            copy(self, pattern, src=self._tree(), dst=self.export_sources_folder)

    def layout(self):
        basic_layout(self)

    def validate(self):
        if self.settings.os != "Linux" or self.settings.arch not in ("x86_64", "armv8", "riscv64"):
            raise ConanInvalidConfiguration("kvm-hpp is for Linux on x86_64, arm64 and riscv64")
        compiler = str(self.settings.compiler)
        oldest = {"gcc": "12", "clang": "14"}.get(compiler)
        if oldest and Version(self.settings.compiler.version) < oldest:
            raise ConanInvalidConfiguration(f"kvm-hpp needs {compiler} {oldest} or newer")
        if self.settings.get_safe("compiler.cppstd"):
            check_min_cppstd(self, 20)

    def package_id(self):
        self.info.clear()

    def package(self):
        copy(self, "include/*", src=self.source_folder, dst=self.package_folder)
        copy(self, "LICENSE", src=self.source_folder,
             dst=os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.system_libs = ["pthread"]
        self.cpp_info.set_property("cmake_file_name", "kvm-hpp")
        self.cpp_info.set_property("cmake_target_name", "kvm-hpp::kvm-hpp")
        self.cpp_info.set_property("pkg_config_name", "kvm-hpp")
