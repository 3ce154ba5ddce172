# SPDX-License-Identifier: MIT
import subprocess


def cmake_layout(_conanfile):
    pass


class CMake:
    """Runs CMake with what the test says in conanfile.cmake_arguments."""

    def __init__(self, conanfile):
        self._of = conanfile

    def configure(self):
        subprocess.run([self._of.cmake, "-S", self._of.recipe_folder, "-B", self._of.build_folder,
                        *self._of.cmake_arguments], check=True)

    def build(self):
        subprocess.run([self._of.cmake, "--build", self._of.build_folder], check=True)
