#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the code of the tests into the guides: guides.py GUIDE.md...

A block of C++ that follows a line <!-- snippet: FILE [NAME] --> becomes what stands in FILE between
the two lines //! [NAME], without the indentation that all its lines share, or all of FILE from the
first #include on. tests/docs/snippets.awk checks that it is so."""
import re
import sys
import textwrap


def code(path, name):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if name is None:
        return text[text.index("#include") :].rstrip("\n")
    mark = r"^ *//! \[%s\]\n" % re.escape(name)
    found = re.search(mark + r"(.*?)" + mark, text, re.DOTALL | re.MULTILINE)
    if not found:
        sys.exit("%s has no snippet %s" % (path, name))
    return textwrap.dedent(found.group(1)).rstrip("\n")


def main():
    block = re.compile(r"(<!-- snippet: (\S+)(?: ([a-z0-9-]+))? -->\n```cpp\n).*?(^```$)", re.DOTALL | re.MULTILINE)
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        new = block.sub(lambda m: m.group(1) + code(m.group(2), m.group(3)) + "\n" + m.group(4), text)
        if new != text:
            with open(path, "w", encoding="utf-8") as file:
                file.write(new)
            print("updated", path)


main()
