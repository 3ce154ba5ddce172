# SPDX-License-Identifier: MIT
"""Stands in for Conan 2 in tests of our recipes: what they use of it, and nothing else, so that a
name that is not here (and perhaps not in Conan) is an error."""


class CppInfo:
    """What a package says of itself; starts with Conan's defaults."""

    __slots__ = ("includedirs", "libdirs", "bindirs", "libs", "system_libs", "defines", "cxxflags",
                 "properties")

    def __init__(self):
        self.includedirs = ["include"]
        self.libdirs = ["lib"]
        self.bindirs = ["bin"]
        self.libs = []
        self.system_libs = []
        self.defines = []
        self.cxxflags = []
        self.properties = {}

    def set_property(self, name, value):
        if name not in ("cmake_file_name", "cmake_target_name", "pkg_config_name"):
            raise ValueError(f"no such property here: {name}")
        self.properties[name] = value


class Compiler(str):
    """A setting with settings of its own."""

    def __new__(cls, name, version, cppstd=None):
        made = super().__new__(cls, name)
        made.version = version
        made.cppstd = cppstd
        return made


class Settings:
    def __init__(self, os, arch, compiler, build_type="Release"):
        self.os = os
        self.arch = arch
        self.compiler = compiler
        self.build_type = build_type

    def get_safe(self, path):
        value = self
        for name in path.split("."):
            value = getattr(value, name, None)
        return value


class Info:
    cleared = False

    def clear(self):
        self.cleared = True


class Folders:
    """Where a test package is built."""

    bindir = "."


class Cpp:
    def __init__(self):
        self.build = Folders()


class ConanFile:
    package_type = None
    version = None

    def __init__(self, recipe_folder, settings=None):
        self.recipe_folder = recipe_folder
        self.settings = settings
        self.info = Info()
        self.cpp_info = CppInfo()
        self.cpp = Cpp()
        self.required = []

    def requires(self, reference):
        self.required.append(reference)

    def run(self, command, env=None):
        if env not in (None, "conanrun"):
            raise ValueError(f"no such environment: {env}")
        self.ran.append(command)
