# SPDX-License-Identifier: MIT
"""Adds up what gcov says of every object in a build folder; see scripts/coverage."""
import argparse
import collections
import concurrent.futures
import json
import os
import re
import subprocess
import sys

LIMIT = 95.0


def read_object(gcov, note, include):
    """What one object has of the library: the lines, branches and functions of each header."""
    output = subprocess.run(
        [gcov, "--json-format", "--stdout", "--branch-probabilities", "--demangled-names", note],
        cwd=os.path.dirname(note), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True).stdout
    lines, branches, functions = {}, {}, {}
    for text in output.splitlines():
        if not text.strip():
            continue
        data = json.loads(text)
        for header in data["files"]:
            path = os.path.realpath(os.path.join(data["current_working_directory"], header["file"]))
            if not path.startswith(include + os.sep):
                continue
            path = os.path.relpath(path, include)
            for line in header["lines"]:
                key = (path, line["line_number"])
                lines[key] = lines.get(key, 0) + line["count"]
                # An exception's way out of every call is no decision of the code.
                taken = [branch["count"] for branch in line["branches"] if not branch["throw"]]
                for index, count in enumerate(taken):
                    # A template's instantiations of the same shape are one.
                    branch = key + (len(taken), index)
                    branches[branch] = branches.get(branch, 0) + count
            for function in header["functions"]:
                key = (path, function["start_line"], function["end_line"])
                functions[key] = function["demangled_name"]
    return lines, branches, functions


def short_name(name):
    """kvm::v0_throwing::System::try_open(char const*) as System::try_open"""
    name = name.replace("kvm::v0_throwing::", "")
    while True:  # Arguments, of templates too.
        shorter = re.sub(r"<[^<>]*>|\([^()]*\)(?=[^)]*$)|\([^()]*\)", "", name)
        if shorter == name:
            break
        name = shorter
    name = re.sub(r"\[[^\]]*\]|\b(const|noexcept|requires)\b.*$", "", name).strip()
    return name.split(" ")[-1]


def read_reasons(path):
    """Each line: a header, a text that the function's name has, and a reason, separated by tabs."""
    reasons = []
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            text = text.rstrip("\n")
            if not text or text.startswith("#"):
                continue
            fields = text.split("\t")
            if len(fields) != 3 or not all(fields):
                sys.exit(f"{path}:{number}: not header, function and reason, separated by tabs")
            reasons.append(tuple(fields))
    return reasons


def percent(part, whole):
    return 100.0 * part / whole if whole else 100.0


def main():
    parser = argparse.ArgumentParser()
    for name in ("gcov", "build", "include", "reasons"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--part", action="store_true")
    options = parser.parse_args()
    include = os.path.realpath(options.include)

    notes = []
    for folder, _, names in os.walk(options.build):
        # An object whose source is gone is not built any more.
        notes += [os.path.join(folder, name) for name in names
                  if name.endswith(".gcno") and os.path.exists(os.path.join(folder, name[:-5] + ".o"))]
    if not notes:
        sys.exit("there is nothing to count in " + options.build)
    run = sum(os.path.exists(note[:-5] + ".gcda") for note in notes)
    if run == 0:
        sys.exit("no test left a count in " + options.build)

    lines, branches, functions = collections.Counter(), collections.Counter(), {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(lambda note: read_object(options.gcov, note, include), sorted(notes)):
            for key, count in result[0].items():
                lines[key] += count
            for key, count in result[1].items():
                branches[key] += count
            functions.update(result[2])

    def function_of(path, line):
        around = [(end - start, name) for (at, start, end), name in functions.items()
                  if at == path and start <= line <= end]
        return short_name(min(around)[1]) if around else "(none)"

    per_file = collections.defaultdict(lambda: [0, 0, 0, 0])
    for (path, _), count in lines.items():
        per_file[path][0] += 1
        per_file[path][1] += count > 0
    for (path, _, _, _), count in branches.items():
        per_file[path][2] += 1
        per_file[path][3] += count > 0

    with open(os.path.join(options.build, "coverage.tsv"), "w", encoding="utf-8") as file:
        for (path, line), count in sorted(lines.items()):
            file.write(f"{path}\t{line}\t{count}\t{function_of(path, line) if count == 0 else ''}\n")

    # What was not reached, as runs of lines of one function.
    runs = []
    for path, line in sorted(key for key, count in lines.items() if count == 0):
        name = function_of(path, line)
        if runs and runs[-1][0] == path and runs[-1][3] == name and not any(
                lines.get((path, between), 0) for between in range(runs[-1][2] + 1, line)):
            runs[-1][2] = line
        else:
            runs.append([path, line, line, name])
    reasons = read_reasons(options.reasons)
    used, unexplained = set(), 0
    print()
    for path, first, last, name in runs:
        reason = next((one for one in reasons if one[0] == path and one[1] in name), None)
        if reason:
            used.add(reason)
        else:
            unexplained += 1
        where = f"{path}:{first}" + (f"-{last}" if last != first else "")
        print(f"not reached: {where} {name}: {reason[2] if reason else 'NO REASON'}")

    print(f"\n{'header':42} {'lines':>6} {'reached':>8} {'%':>6} {'branches':>9} {'taken':>6} {'%':>6}")
    total = [sum(column) for column in zip(*per_file.values())]
    for path, (n, hit, ways, taken) in sorted(per_file.items()) + [("all", total)]:
        print(f"{path:42} {n:6} {hit:8} {percent(hit, n):6.1f} {ways:9} {taken:6} {percent(taken, ways):6.1f}")
    headers = [os.path.relpath(os.path.join(folder, name), include)
               for folder, _, names in os.walk(include) for name in names if name.endswith(".hpp")]
    without = sorted(set(headers) - set(per_file))
    print(f"without code here (other architectures, declarations, constants): {len(without)} headers"
          + (f": {', '.join(without)}" if not options.part else ""))
    print(f"{len(notes)} objects, {run} of them ran")

    status = 0
    if not options.part:
        if percent(total[1], total[0]) < LIMIT:
            print(f"FAILED: {percent(total[1], total[0]):.1f} % of the lines, and not {LIMIT} %")
            status = 1
        if unexplained:
            print(f"FAILED: {unexplained} places were not reached and have no reason in {os.path.basename(options.reasons)}")
            status = 1
        for reason in reasons:
            if reason not in used:
                print(f"FAILED: a reason for what was reached: {reason[0]} {reason[1]}")
                status = 1
    print(f"\n{percent(total[1], total[0]):.1f} % of {total[0]} lines, {percent(total[3], total[2]):.1f} % of {total[2]} branches"
          + (" (by a part of the tests)" if options.part else ""))
    return status


sys.exit(main())
