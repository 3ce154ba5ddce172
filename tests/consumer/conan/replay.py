# SPDX-License-Identifier: MIT
"""replay.py LIBRARY WORK VERSION CMAKE CMAKE_ARGUMENT...

Runs the Conan recipe as `conan create` does, with stand_in/conan in Conan's place: exports, checks
which settings it takes, packages, and builds and runs the test package against the result.
"""
import importlib.util
import os
import shutil
import subprocess
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(here, "stand_in"))

from conan import Compiler, ConanFile, Settings  # noqa: E402
from conan.errors import ConanInvalidConfiguration  # noqa: E402


def must(condition, text):
    if not condition:
        sys.exit(f"conan: {text}")


def recipe(path):
    """The ConanFile that a conanfile.py defines, and the module."""
    spec = importlib.util.spec_from_file_location("recipe_" + str(abs(hash(path))), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = [value for value in vars(module).values()
             if isinstance(value, type) and issubclass(value, ConanFile) and value is not ConanFile]
    must(len(found) == 1, f"{path} defines {len(found)} recipes")
    return found[0], module


def files_below(folder):
    return sorted(os.path.relpath(os.path.join(root, file), folder)
                  for root, _, files in os.walk(folder) for file in files)


library, work, version, cmake, *arguments = sys.argv[1:]
user_folder = os.path.join(library, "packaging", "conan")
shutil.rmtree(work, ignore_errors=True)
cache = os.path.join(work, "cache", "export")
sources = os.path.join(work, "cache", "sources")
package = os.path.join(work, "package")
generators = os.path.join(work, "generators")
for folder in (cache, sources, package, generators):
    os.makedirs(folder)

print("Conan itself is not here: the recipe runs with a stand-in for the parts of Conan 2 that it uses. "
      "Conan's profiles, its cache and its generators are not tried.")

# What the recipe says of itself.
KvmHpp, module = recipe(os.path.join(user_folder, "conanfile.py"))
must(module.required_conan_version == ">=2.0", "required_conan_version is not >=2.0")
must(KvmHpp.name == "kvm-hpp" and KvmHpp.license == "MIT" and KvmHpp.description, "name, license, description")
must(KvmHpp.package_type == "header-library", f"package_type is {KvmHpp.package_type}")
must(set(KvmHpp.settings) == {"os", "arch", "compiler", "build_type"}, f"settings are {KvmHpp.settings}")

# Export, in the user's folder. Later steps see only what was exported.
exporting = KvmHpp(user_folder)
exporting.set_version()
must(exporting.version == version, f"the recipe is of {exporting.version}, the headers of {version}")
exporting.export_sources_folder = sources
exporting.export_sources()
shutil.copy(os.path.join(user_folder, "conanfile.py"), cache)
KvmHpp, _ = recipe(os.path.join(cache, "conanfile.py"))


def made_for(*settings):
    made = KvmHpp(cache, Settings(*settings))
    made.version = version
    made.layout()
    return made


# Which settings it takes.
def valid(wanted, *settings):
    try:
        made_for(*settings).validate()
        taken = True
    except ConanInvalidConfiguration:
        taken = False
    compiler = settings[2]
    must(taken == wanted, f"{settings}, {compiler} {compiler.version}, C++{compiler.cppstd}: "
         f"{'taken' if taken else 'refused'}")


gcc = Compiler("gcc", "12", "20")
valid(True, "Linux", "x86_64", gcc)
valid(True, "Linux", "armv8", gcc)
valid(True, "Linux", "riscv64", gcc)
valid(True, "Linux", "x86_64", Compiler("gcc", "12.2", "gnu23"))
valid(True, "Linux", "x86_64", Compiler("gcc", "13"))
valid(True, "Linux", "x86_64", Compiler("clang", "14", "gnu20"))
valid(False, "Linux", "x86_64", Compiler("gcc", "12", "17"))
valid(False, "Linux", "x86_64", Compiler("clang", "14", "gnu17"))
valid(False, "Linux", "x86_64", Compiler("gcc", "12", "98"))
valid(False, "Linux", "x86_64", Compiler("gcc", "11", "20"))
valid(False, "Linux", "x86_64", Compiler("gcc", "9.4", "20"))
valid(False, "Linux", "x86_64", Compiler("clang", "13", "20"))
valid(False, "Linux", "x86", gcc)
valid(False, "Linux", "armv7", gcc)
valid(False, "Linux", "ppc64le", gcc)
valid(False, "Windows", "x86_64", Compiler("msvc", "193", "20"))
valid(False, "FreeBSD", "x86_64", Compiler("clang", "14", "20"))

# The package: one for all settings.
made = made_for("Linux", "x86_64", gcc)
made.package_id()
must(made.info.cleared, "the package id depends on the settings")
made.source_folder = sources
made.package_folder = package
made.package()
expected = ["include/" + file for file in files_below(os.path.join(library, "include"))]
must(files_below(package) == sorted(expected + ["licenses/LICENSE"]),
     f"the package has {files_below(package)}")
made.package_info()
info = made.cpp_info
must(info.libdirs == [] and info.bindirs == [] and info.libs == [], "a header-only package names libraries")
must(info.properties.get("pkg_config_name") == "kvm-hpp", "pkg_config_name")

# A CMake package as CMakeDeps would make it of that.
target = info.properties["cmake_target_name"]
with open(os.path.join(generators, info.properties["cmake_file_name"] + "-config.cmake"), "w",
          encoding="utf-8") as file:
    includes = ";".join(os.path.join(package, folder) for folder in info.includedirs)
    file.write(f'add_library({target} INTERFACE IMPORTED)\n'
               f'set_target_properties({target} PROPERTIES\n'
               f'  INTERFACE_INCLUDE_DIRECTORIES "{includes}"\n'
               f'  INTERFACE_LINK_LIBRARIES "{";".join(info.system_libs)}")\n')

# The test package, outside the tree.
test_folder = os.path.join(work, "test_package")
shutil.copytree(os.path.join(user_folder, "test_package"), test_folder)
KvmHppTest, _ = recipe(os.path.join(test_folder, "conanfile.py"))
must(set(KvmHppTest.generators) == {"CMakeDeps", "CMakeToolchain"}, f"generators are {KvmHppTest.generators}")
test = KvmHppTest(test_folder, Settings("Linux", "x86_64", gcc))
test.tested_reference_str = f"kvm-hpp/{version}"
test.requirements()
must(test.required == [f"kvm-hpp/{version}"], f"the test package requires {test.required}")
test.layout()
test.ran = []
test.cmake = cmake
test.build_folder = os.path.join(work, "build")
test.cpp.build.bindir = test.build_folder
test.cmake_arguments = [*arguments, f"-DCMAKE_PREFIX_PATH={generators}", "-DCMAKE_BUILD_TYPE=Debug"]
test.build()
test.test()
must(len(test.ran) == 1, f"the test package runs {test.ran}")
ran = subprocess.run(test.ran, stdout=subprocess.PIPE, text=True, check=False)
print(ran.stdout)
must(ran.returncode == 0, f"the test package ended with {ran.returncode}")
if ran.stdout.startswith("not run: "):
    print("Skipped\n/dev/kvm cannot be used on this host: built, but not run\n[  SKIPPED ]")
else:
    must("kvm-hpp works" in ran.stdout, "the test package says nothing")
