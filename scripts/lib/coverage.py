# SPDX-License-Identifier: MIT
"""Adds up what gcov says of every object in a build folder; see scripts/coverage."""
import argparse
import collections
import concurrent.futures
import functools
import json
import os
import platform
import re
import shlex
import subprocess
import sys

LIMIT = 95.0
ALL = "all of it"
BY_CHANCE = "by chance: "
ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64", "riscv64": "riscv"}


def is_of_another_architecture(path):
    here = ARCHITECTURES.get(platform.machine())
    return any(re.search(rf"(^|/){other}(/|\.hpp$)", path)
               for other in ARCHITECTURES.values() if other != here)


@functools.cache
def source_of(include, path):
    """Its lines, from number 1 on."""
    with open(os.path.join(include, path), encoding="utf-8") as file:
        return [""] + file.read().split("\n")


def read_object(gcov, include, note):
    """What one object has of the library: the lines, branches and functions of each header."""
    done = subprocess.run(
        [gcov, "--json-format", "--stdout", "--branch-probabilities", "--demangled-names", note],
        cwd=os.path.dirname(note), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    complaint = done.stderr.decode(errors="replace")
    if done.returncode != 0 or "stamp mismatch" in complaint or "corrupt" in complaint:
        raise RuntimeError(f"{gcov} {note}: {complaint.strip() or done.returncode}")
    lines, branches, functions = collections.Counter(), collections.Counter(), {}
    for text in done.stdout.splitlines():
        if not text.strip():
            continue
        data = json.loads(text)
        for header in data["files"]:
            path = os.path.realpath(os.path.join(data["current_working_directory"], header["file"]))
            if not path.startswith(include + os.sep):
                continue
            path = os.path.relpath(path, include)
            if is_of_another_architecture(path):
                continue
            source = source_of(include, path)
            for line in header["lines"]:
                key = (path, line["line_number"])
                if not source[key[1]].strip("{}()[],; \t"):
                    continue
                lines[key] += line["count"]
                # An exception's way out of every call is no decision of the code.
                taken = [branch["count"] for branch in line["branches"] if not branch["throw"]]
                for index, count in enumerate(taken):
                    # A template's instantiations of the same shape are one.
                    branches[key + (len(taken), index)] += count
            for function in header["functions"]:
                name = function["demangled_name"]
                if not name.startswith("_Z"):  # Too long to demangle: what is around it will do.
                    functions[path, function["start_line"], function["end_line"]] = name
    return lines, branches, functions


def short_name(name):
    """kvm::v0_throwing::System::try_open(char const*) becomes System::try_open."""
    name = re.sub(r"\bkvm::v\d+_\w+::", "", name)
    operator = re.search(r"operator *(\(\)|\[\]|[-+*/%^&|~!=<>,]+)(?=[<(]|$)", name)
    if operator:  # Its brackets are not those of arguments.
        name = name[:operator.start()] + "operator#" + name[operator.end():]
    while True:  # Arguments, of templates too.
        shorter = re.sub(r"<[^<>]*>|\([^()]*\)|\[[^\[\]]*\]|\{lambda[^{}]*\}",
                         lambda found: "lambda" if found[0].startswith("{") else "", name)
        if shorter == name:
            break
        name = shorter
    name = re.sub(r"( (const|noexcept|requires)\b.*| *&&?)$", "", name).strip()
    # What is before the last blank is the result's type, unless the name is a conversion.
    if "operator " not in name:
        name = name.split(" ")[-1]
    return name.replace("operator#", "operator" + operator[1]) if operator else name


class Reasons:
    """The list of what is not reached. A header and a function, then texts that lines of it have (two
    spaces before them; "all of it" where nothing of the function is reached; "by chance: " before what
    is reached in some runs), then the reason that those above it share (four spaces)."""

    def __init__(self, path):
        self.entries = []  # [header, function, text, reason, used, by chance]
        header, waiting = None, []
        with open(path, encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                text = text.rstrip()
                if not text or text.startswith("#"):
                    continue
                if text.startswith("    ") and (waiting or self.entries):
                    if not waiting:  # A reason's second line.
                        for entry in self.entries[self.last:]:
                            entry[3] += " " + text.strip()
                        continue
                    self.last = len(self.entries)
                    self.entries += [[*header, one.removeprefix(BY_CHANCE), text.strip(), False,
                                      one.startswith(BY_CHANCE)] for one in waiting]
                    waiting = []
                elif text.startswith("  ") and header:
                    waiting.append(text.strip())
                elif re.fullmatch(r"include/\S+\.hpp \S.*", text) and not waiting:
                    file_name, function = text.split(" ", 1)
                    header = (file_name[len("include/"):], function)
                else:
                    sys.exit(f"{path}:{number}: neither header and function, nor a line's text, nor a reason")
        if waiting:
            sys.exit(f"{path}: no reason for {waiting[-1]}")

    def find(self, header, function, text, whole):
        """The entry of a line; one for the whole function only where none of it was reached."""
        for entry in self.entries:
            if entry[:2] == [header, function] and (whole if entry[2] == ALL else entry[2] in text):
                entry[4] = True
                return entry
        return None


class Tree:
    """What all objects together have."""

    def __init__(self, include):
        self.include = include
        self.lines, self.branches, self.functions = collections.Counter(), collections.Counter(), {}

    def add(self, lines, branches, functions):
        # Counter.update also keeps what has the count 0.
        self.lines.update(lines)
        self.branches.update(branches)
        self.functions.update(functions)

    @functools.cached_property
    def of_file(self):
        of_file = collections.defaultdict(list)
        for (path, start, end), name in self.functions.items():
            of_file[path].append((end - start, start, end, name))
        return of_file

    def function_of(self, path, line):
        around = [one for one in self.of_file[path] if one[1] <= line <= one[2]]
        return min(around)[1:] if around else None

    def leave_out_what_is_not_written(self):
        """Takes out what the compiler made itself: lines outside functions (members' own lines, for
        comparisons and constructors that are defaulted), the entry of a function of several lines
        which only ever was inlined, and the first line of a statement whose next line was reached."""
        for path, line in [key for key, count in self.lines.items()]:
            function = self.function_of(path, line)
            inlined = function and line == function[0] and self.lines[path, line] == 0 and any(
                self.lines.get((path, one)) for one in range(line + 1, function[1] + 1))
            text = self.source(path)[line].split("//")[0].rstrip()
            opens_lambda = re.search(r"\[[^\[\]]*\](\([^()]*\))? *\{$", text)
            continued = self.lines[path, line] == 0 and (opens_lambda or text[-1:] not in ";{}:") and (
                self.lines.get((path, line + 1), 0) > 0 or
                opens_lambda and (path, line + 1) not in self.lines and
                self.lines.get((path, line + 2), 0) > 0)
            if function is None or inlined or continued:
                del self.lines[path, line]
        for key in [key for key in self.branches if key[:2] not in self.lines]:
            del self.branches[key]

    def source(self, path):
        return source_of(self.include, path)

    def unreached(self):
        """(header, function's short name, whether no line of it was reached, its lines), as runs of
        lines that nothing which was reached is between."""
        runs = []
        for path, line in sorted(key for key, count in self.lines.items() if count == 0):
            start, end, name = self.function_of(path, line)
            if runs and runs[-1][0] == path and runs[-1][1] == (start, end) and not any(
                    self.lines.get((path, between)) for between in range(runs[-1][4][-1], line)):
                runs[-1][4].append(line)
                continue
            whole = not any(self.lines.get((path, one)) for one in range(start, end + 1))
            runs.append((path, (start, end), short_name(name), whole, [line]))
        return [(path, name, whole, lines) for path, _, name, whole, lines in runs]


def indentation(text):
    return len(text) - len(text.lstrip())


def explain(tree, reasons):
    """(header, first line, last line, function, reason or None) of everything that was not reached. A
    line's reason is also that of what is indented deeper below it, and of the brace that ends that."""
    places = []
    for path, name, whole, lines in tree.unreached():
        depth, previous = None, object()
        for line in lines:
            text = tree.source(path)[line]
            entry = reasons.find(path, name, text, whole)
            below = depth is not None and (indentation(text) > depth or (
                indentation(text) == depth and text.strip().startswith("}")))
            if entry:
                depth = indentation(text)
            elif below:
                entry = previous
            else:
                depth = None
            if entry is previous:
                places[-1][2] = line
            else:
                places.append([path, line, line, name, entry])
            previous = entry
    return places


def percent(part, whole):
    return 100.0 * part / whole if whole else 100.0


def print_table(tree, include, part):
    per_file = collections.defaultdict(lambda: [0, 0, 0, 0])
    for (path, _), count in tree.lines.items():
        per_file[path][0] += 1
        per_file[path][1] += count > 0
    for (path, _, _, _), count in tree.branches.items():
        per_file[path][2] += 1
        per_file[path][3] += count > 0
    total = [sum(column) for column in zip(*per_file.values())]
    whole = [figures for figures in per_file.values() if figures[0] == figures[1]]
    rows = [(path, figures) for path, figures in sorted(per_file.items()) if figures[0] != figures[1]]
    if whole:
        rows.append((f"{len(whole)} headers with every line reached", [sum(column) for column in zip(*whole)]))
    print(f"\n{'header':42} {'lines':>6} {'reached':>8} {'%':>6} {'branches':>9} {'taken':>6} {'%':>6}")
    for path, (n, hit, ways, taken) in rows + [("all", total)]:
        print(f"{path:42} {n:6} {hit:8} {percent(hit, n):6.1f} {ways:9} {taken:6} {percent(taken, ways):6.1f}")
    headers = {os.path.relpath(os.path.join(folder, name), include)
               for folder, _, names in os.walk(include) for name in names if name.endswith(".hpp")}
    other = {path for path in headers if is_of_another_architecture(path)}
    print(f"not counted: {len(other)} headers of other architectures; "
          f"{len(headers - other - set(per_file))} without code" + (" that these tests use" if part else ""))
    return total


def main():
    parser = argparse.ArgumentParser()
    for name in ("gcov", "build", "include", "reasons"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--part", action="store_true")
    options = parser.parse_args()
    include, build = os.path.realpath(options.include), os.path.realpath(options.build)
    reasons = Reasons(options.reasons)

    # Earlier builds may have left objects of what is not built any more.
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
        commands = [(one["directory"], shlex.split(one["command"])) for one in json.load(file)]
    objects = [os.path.join(folder, words[words.index("-o") + 1]) for folder, words in commands]
    notes = [one[:-2] + ".gcno" for one in objects if one.endswith(".o")]
    notes = [note for note in notes if os.path.exists(note)]
    ran = sum(os.path.exists(note[:-5] + ".gcda") for note in notes)
    if ran == 0:
        sys.exit("no test left a count in " + options.build)

    tree = Tree(include)
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        for result in pool.map(functools.partial(read_object, options.gcov, include), sorted(notes)):
            tree.add(*result)
    tree.leave_out_what_is_not_written()
    with open(os.path.join(build, "coverage.tsv"), "w", encoding="utf-8") as file:
        for (path, line), count in sorted(tree.lines.items()):
            file.write(f"{path}\t{line}\t{count}\t{short_name(tree.function_of(path, line)[2])}\n")

    failures = []
    print()
    for path, first, last, name, entry in explain(tree, reasons):
        where = f"{path}:{first}" + (f"-{last}" if last != first else "") + f" {name}"
        print(f"not reached: {where}: {entry[3] if entry else 'NO REASON'}")
        if not entry:
            failures.append(f"no reason for {where}: {tree.source(path)[first].strip()}")
    for header, function, text, _, used, by_chance in reasons.entries:
        if not used and not (by_chance and any(text in line for line in tree.source(header))):
            failures.append(f"a reason for what was reached, or is not there: {header} {function}: {text}")

    total = print_table(tree, include, options.part)
    result = (f"{percent(total[1], total[0]):.1f} % of {total[0]} lines and {percent(total[3], total[2]):.1f} % of "
              f"{total[2]} branches, by {len(notes)} objects, of which {ran} ran")
    if options.part:
        print(f"\n{result} (part of the tests)")
        return 0
    if percent(total[1], total[0]) < LIMIT:
        failures.append(f"less than {LIMIT} % of the lines")
    print()
    for failure in failures:
        print("FAILED:", failure)
    print(result)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
