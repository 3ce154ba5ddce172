# SPDX-License-Identifier: MIT
import fnmatch
import os
import shutil


def copy(_conanfile, pattern, src, dst):
    """Conan's: the pattern is matched against the whole path below src, and * matches slashes."""
    copied = []
    for folder, _, files in os.walk(src):
        for file in files:
            path = os.path.join(folder, file)
            relative = os.path.relpath(path, src)
            if fnmatch.fnmatch(relative, pattern):
                target = os.path.join(dst, relative)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy2(path, target)
                copied.append(target)
    return copied


def load(_conanfile, path):
    with open(path, encoding="utf-8") as file:
        return file.read()
