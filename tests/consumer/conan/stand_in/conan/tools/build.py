# SPDX-License-Identifier: MIT
from conan.errors import ConanException, ConanInvalidConfiguration


def check_min_cppstd(conanfile, cppstd):
    has = conanfile.settings.get_safe("compiler.cppstd")
    if has is None:
        raise ConanException("compiler.cppstd is not set")

    def year(standard):
        number = int(str(standard).replace("gnu", ""))
        return number + 1900 if number >= 90 else number + 2000

    if year(has) < year(cppstd):
        raise ConanInvalidConfiguration(f"C++{has} is older than C++{cppstd}")


def can_run(_conanfile):
    return True
