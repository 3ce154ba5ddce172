#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Counts the public names in Doxygen's XML and lists those without a comment: names.py FOLDER.
The last line is "DOCUMENTED UNDOCUMENTED". Fails if there is one without."""
import pathlib
import sys
import xml.etree.ElementTree as tree

COMPOUNDS = ("class", "struct", "union", "namespace", "concept")


def said(element):
    return any("".join(part.itertext()).strip() for part in element if part.tag.endswith("description"))


def main():
    names = {}
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.xml")):
        root = tree.parse(path).getroot()
        for compound in root.findall("compounddef"):
            if compound.get("kind") not in COMPOUNDS:
                continue
            name = compound.findtext("compoundname", "")
            if compound.get("prot", "public") != "public" or name in ("kvm::detail::sys", "std"):
                continue
            names[name] = said(compound)
            for member in compound.iter("memberdef"):
                if member.get("prot") != "public" or member.get("kind") == "friend":
                    continue
                key = member.get("id")
                label = "%s::%s%s" % (name, member.findtext("name", ""), member.findtext("argsstring") or "")
                names.setdefault(key, (said(member), label))
                for value in member.findall("enumvalue"):
                    names[value.get("id")] = (said(value), "%s::%s" % (label, value.findtext("name", "")))
    without = []
    for key, value in names.items():
        good, label = value if isinstance(value, tuple) else (value, key)
        if not good:
            without.append(label)
    for label in sorted(without):
        print("no comment: " + label)
    print(len(names) - len(without), len(without))
    return len(without) != 0 or not names


sys.exit(main())
