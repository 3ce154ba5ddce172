#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The include graph of the public headers. Run from the top of the repository:

  includes.py edges       prints "a -> b" for each edge of the picture; fails if there is a circle
  includes.py dot         prints it for Graphviz
  includes.py theme FILE  prints Graphviz's SVG with colours for light and dark
  includes.py drawn FILE  prints the edges that an SVG shows

What a header includes through detail/ counts as its own. Rooms of facts and of one architecture are drawn as one. An edge is left out where
another path says the same."""
import pathlib
import re
import sys

ROOT = pathlib.Path("include")
DRAWN_AS_ONE = ("uapi", "capability", "x86", "riscv")
ROOMS = ("memory", "irq", "capability", "x86", "arm64", "riscv", "uapi")


def read():
    graph = {}
    for path in sorted(ROOT.glob("kvm/**/*.hpp")):
        found = re.findall(r"^#include <(kvm/[^>]+)>", path.read_text(encoding="utf-8"), re.MULTILINE)
        graph[str(path.relative_to(ROOT))] = found
    return graph


def circle(graph):
    """The headers of a circle, or nothing."""
    state = {}

    def visit(node, path):
        state[node] = 1
        for other in graph.get(node, ()):
            if state.get(other) == 1:
                return path[path.index(other) :] + [other] if other in path else [node, other]
            if other not in state:
                found = visit(other, path + [other])
                if found:
                    return found
        state[node] = 2
        return None

    for node in graph:
        if node not in state:
            found = visit(node, [node])
            if found:
                return found
    return None


def name(header):
    short = header.removeprefix("kvm/")
    room = short.split("/")[0].removesuffix(".hpp") if "/" in short or short == "uapi.hpp" else ""
    return room + "/" if room in DRAWN_AS_ONE else short


def public(graph):
    """The edges between public headers, those through detail/ included."""

    def beyond(header, seen):
        for other in graph.get(header, ()):
            if other.startswith("kvm/detail/"):
                if other not in seen:
                    seen.add(other)
                    yield from beyond(other, seen)
            else:
                yield other

    edges = {}
    for header in graph:
        if not header.startswith("kvm/detail/"):
            targets = edges.setdefault(name(header), set())
            targets.update(name(other) for other in beyond(header, set()))
            targets.discard(name(header))
    return edges


def reduced(edges):
    reach = {}

    def reachable(node):
        if node not in reach:
            reach[node] = set()
            for other in edges.get(node, ()):
                reach[node] |= {other} | reachable(other)
        return reach[node]

    for node, targets in edges.items():
        for target in sorted(targets):
            if not any(target in reachable(other) for other in targets if other != target):
                yield node, target


def dot(pairs):
    nodes = sorted({node for pair in pairs for node in pair})
    print("digraph includes {")
    print('  graph [rankdir=TB, ranksep=0.35, nodesep=0.12, bgcolor="transparent", pad=0.2];')
    print('  node [shape=box, style="rounded,filled", fontname="DejaVu Sans", fontsize=13, height=0.32, margin="0.1,0.04"];')
    print("  edge [arrowsize=0.6];")
    for node in nodes:
        room = node.split("/")[0] if "/" in node else "top"
        print('  "%s" [class="%s"];' % (node, room if room in ROOMS else "top"))
    for pair in pairs:
        print('  "%s" -> "%s";' % pair)
    print("}")


THEME = """<style>
    .page { fill: #ffffff; stroke: #d1d9e0; }
    g.node text { fill: #1f2328; font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
    g.node path { fill: #f6f8fa; stroke: #818b98; }
    g.memory path { fill: #ddf4ff; stroke: #0969da; }
    g.irq path { fill: #fff8c5; stroke: #9a6700; }
    g.capability path { fill: #dafbe1; stroke: #1a7f37; }
    g.x86 path, g.arm64 path, g.riscv path { fill: #ffebe9; stroke: #cf222e; }
    g.edge path { stroke: #818b98; fill: none; }
    g.edge polygon { fill: #818b98; stroke: #818b98; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #161b22; stroke: #3d444d; }
      g.node text { fill: #e6edf3; }
      g.node path { fill: #21262d; stroke: #656c76; }
      g.memory path { fill: #10315c; stroke: #4493f8; }
      g.irq path { fill: #3b2a05; stroke: #d29922; }
      g.capability path { fill: #12351f; stroke: #3fb950; }
      g.x86 path, g.arm64 path, g.riscv path { fill: #4a1714; stroke: #f85149; }
    }
  </style>
  <rect class="page" width="100%" height="100%" rx="8"/>"""


def theme(path):
    text = pathlib.Path(path).read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    head, rest = text.split(">", 1)
    head = re.sub(r'(width|height)="(\d+)pt"', r'\1="\2"', head)
    rest = re.sub(r"<!--.*?-->\n", "", rest, flags=re.DOTALL)
    print("<!-- SPDX-License-Identifier: MIT. scripts/docs makes this from the headers. -->")
    print(head + ">\n  " + THEME + rest, end="")


def drawn(path):
    text = pathlib.Path(path).read_text(encoding="utf-8") if pathlib.Path(path).exists() else ""
    for edge in sorted(re.findall(r"<title>([^<]+)&#45;&gt;([^<]+)</title>", text)):
        print("%s -> %s" % edge)


def main():
    command = sys.argv[1]
    if command == "theme":
        return theme(sys.argv[2])
    if command == "drawn":
        return drawn(sys.argv[2])
    graph = read()
    found = circle(graph)
    if found:
        sys.exit("these include each other: " + " -> ".join(found))
    rooms = public(graph)
    found = circle(rooms)
    if found:
        sys.exit("these rooms include each other: " + " -> ".join(found))
    pairs = sorted(reduced(rooms))
    if command == "dot":
        return dot(pairs)
    for pair in pairs:
        print("%s -> %s" % pair)
    return None


main()
