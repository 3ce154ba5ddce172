# SPDX-License-Identifier: MIT
def basic_layout(_conanfile):
    pass
