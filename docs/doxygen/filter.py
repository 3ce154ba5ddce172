#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What Doxygen reads in place of a header: filter.py FILE > what it reads.
filter.py FILE LINE prints which line of the header that line of what it reads comes from.

The headers say each thing once; this spreads it over the names that it is about:
  - x() has the comment of try_x(), with which it makes a pair
  - a capability has its facts (`info`) as text: what it says, where KVM offers it, where and when
    it can be enabled. Its members decode(), args() and the like are plumbing and left out
  - what every move constructor, destructor and comparison does is said here
  - namespace detail is left out, but for the classes that the handles inherit calls from
  - sections for another architecture are read too: the pages show all architectures
"""
import re
import sys

# The classes of namespace detail whose public members are called on the handles.
SHOWN_OF_DETAIL = ("Handle", "CapabilityHandle", "VcpuCore", "EventBinding")

SCOPES = {"vm": "the VM", "vcpu": "a vCPU"}
ORDERS = {
    "before_vcpus": ", before the first vCPU",
    "before_slots": ", before the first memory slot",
    "before_vcpus_and_slots": ", before the first vCPU and the first memory slot",
    "after_irqchip": ", once the local APIC is in the kernel",
    "after_irqchip_before_vcpus": ", once the local APIC is in the kernel, before the first vCPU",
    "after_ring_before_slots": ", once a dirty ring is enabled, before the first memory slot",
}
VALUES = {
    "bool": "yes or no",
    "std::uint32_t": "a number",
    "Yes": "yes or no",
    "Count": "a number",
}


def block_end(lines, start):
    """The index of the line on which the braces that open from line `start` on are closed."""
    depth = 0
    seen = False
    for index in range(start, len(lines)):
        for char in strip_literals(lines[index]):
            if char == "{":
                depth += 1
                seen = True
            elif char == "}":
                depth -= 1
        if seen and depth <= 0:
            return index
    return len(lines) - 1


def strip_literals(line):
    """The line without comments, strings and characters, so that its brackets count."""
    line = re.sub(r'"(\\.|[^"\\])*"', '""', line)
    line = re.sub(r"'(\\.|[^'\\])'", "''", line)
    return line.split("//")[0]


def arches(text):
    if text is None or "all_arches" in text:
        return "x86, arm64 and riscv" if text else ""
    found = re.findall(r"Arch::(\w+)", text)
    return " and ".join(found)


def sentence(text):
    """The C++ string literals in `text` as one string."""
    return "".join(re.findall(r'"((?:\\.|[^"\\])*)"', text))


def facts_of(body, head):
    """A capability's facts as Doxygen text, and its summary."""
    named = re.search(r"\.number\s*=", body)
    field = {}
    info = body[body.index("CapInfo info") :]
    info = info[info.index("{") + 1 :]
    if named:
        for match in re.finditer(r"\.(\w+)\s*=\s*((?:\"(?:\\.|[^\"\\])*\"|[^,\"}])+)", info):
            field.setdefault(match.group(1), match.group(2).strip())
        value = re.search(r"using Value = ([^;]+);", body)
        value = value.group(1) if value else None
    else:
        parts = re.findall(r'(?:"(?:\\.|[^"\\])*"\s*)+|[^,"{}]+', info)
        parts = [part.strip() for part in parts if part.strip()][:4]
        field = dict(zip(("number", "name", "check_arches", "summary"), parts))
        value = None
    if value is None:
        match = re.search(r"detail::(?:(Yes|Count)|Reported<(.+)>)\s*\{", head)
        value = (match.group(1) or match.group(2)) if match else "bool"
    name = sentence(field["name"])
    value_text = VALUES.get(value)
    if value_text is None:
        flags = re.match(r"Flags<(\w+)>", value)
        value_text = "a set of cap::" + flags.group(1) if flags else "a " + value
    checked = arches(field.get("check_arches"))
    text = "%s. " % name
    text += "check() gives %s, on %s." % (value_text, checked) if checked else ""
    scope = field.get("scope", "").rsplit("::", 1)[-1]
    if scope in SCOPES:
        text += " Enabled on %s (%s)%s." % (
            SCOPES[scope],
            arches(field.get("enable_arches")),
            ORDERS.get(field.get("order", "").rsplit("::", 1)[-1], ""),
        )
        if "constraint" in field:
            text += " KVM asks that " + sentence(field["constraint"]).rstrip(".") + "."
    return text, sentence(field["summary"])


def spread_capabilities(lines):
    """Each struct with a CapInfo gets its facts as comment and loses the plumbing."""
    index = 0
    while index < len(lines):
        head = re.match(r"(template.*>\s*)?struct (\w+)\b.*\{", lines[index])
        if not head:
            index += 1
            continue
        end = block_end(lines, index)
        body = "\n".join(lines[index : end + 1])
        if "CapInfo info" not in body or "struct Reported" in body:
            index += 1
            continue
        text, summary = facts_of(body, lines[index])
        documented = index > 0 and lines[index - 1].startswith("///")
        comment = (
            "/** @par Facts\n%s */" % text if documented else "/** %s\n@par Facts\n%s */" % (summary, text)
        )
        # Doxygen joins it with the comment above.
        last = index + 1
        for at in range(index + 1, end):
            line = lines[at]
            if line.strip().startswith("///"):
                continue
            if "static constexpr" in lines[index] or re.match(
                r"  (static|using|constexpr|std::string describe)", line
            ):
                break
            last = at + 1
        keep = set(range(index, last))
        name = head.group(2)
        first = lines[index]
        if end == index or "static constexpr" in first or last == index + 1:
            lines[index] = "%s struct %s {" % (comment, name)
        else:
            lines[index] = "%s %s" % (comment, re.sub(r" : detail::[^{]+", " ", first))
        for at in range(index + 1, end):
            if at not in keep:
                lines[at] = ""
        if end == index:
            lines[index] += "};"
        else:
            lines[end] = "};"
        index = end + 1


def hide_detail(lines):
    """Leaves of namespace detail only the classes that handles inherit from."""
    index = 0
    while index < len(lines):
        if not re.match(r"namespace detail(::\w+)? \{", lines[index]):
            index += 1
            continue
        end = block_end(lines, index)
        at = index + 1
        keep = set()
        while at < end:
            match = re.match(r"(class|struct) (?:\[\[\w+\]\] )?(\w+)\b.*\{", lines[at])
            if match and match.group(2) in SHOWN_OF_DETAIL:
                first = at
                while first > index + 1 and re.match(r"(///|template)", lines[first - 1]):
                    first -= 1
                close = block_end(lines, at)
                inside = range(first, close)
                hidden = [n for n in inside if re.match(r" (protected|private):", lines[n])]
                keep.update(range(first, hidden[0] if hidden else close))
                keep.add(close)
                at = close
            at += 1
        for at in range(index + 1, end):
            if at not in keep:
                lines[at] = ""
        index = end + 1


def hide_flag_names(lines):
    for index, line in enumerate(lines):
        if re.match(r"constexpr std::array<FlagName<", line):
            for at in range(index, block_end(lines, index) + 1):
                lines[at] = ""




def comment_above(lines, index):
    """The lines of the comment above line `index`, past a template's head."""
    at = index - 1
    while at >= 0 and re.match(r"\s*(template\b|requires\b|typename\b|\[\[)", lines[at]):
        at -= 1
    found = []
    while at >= 0 and re.match(r"\s*(///|/\*\*.*\*/$)", lines[at]):
        found.insert(0, lines[at].strip())
        at -= 1
    return found


def head_start(lines, index):
    at = index
    while at > 0 and re.match(r"\s*(template\b|requires\b)", lines[at - 1]):
        at -= 1
    return at


def spread_pairs(lines):
    """x() after try_x() gets its comment; special members get theirs."""
    last = {}
    documented = ("", [])
    kinds = []
    hidden = False
    for index, line in enumerate(lines):
        if re.match(r"\s*(private|protected|public):", line):
            hidden = "public" not in line
        if re.match(r"\s*\};", line):
            hidden = False
        if hidden:
            continue
        match = re.match(r"\s*(?:class|struct) (?:\[\[[^\]]*\]\] )?(?:\w+::)*(\w+)\b[^;]*\{", line)
        if match:
            kinds.append(match.group(1))
        plain = line.strip()
        if not plain or plain.startswith(("//", "#", "return", "*")):
            continue
        start = head_start(lines, index)
        above = comment_above(lines, index)
        words = re.match(
            r"^(?:\[\[[^\]]*\]\] )*(?:explicit |constexpr |static |inline |friend |virtual )*(~?\w+)\((.*)$", plain
        )
        if words and words.group(1).lstrip("~") in kinds and not above:
            own = words.group(1).lstrip("~")
            rest = words.group(2)
            said = None
            if words.group(1).startswith("~"):
                said = "Lets go of what it holds."
            elif re.match(r"%s( )?&&" % own, rest):
                said = "Takes over what the other one holds, which is empty then."
            elif re.match(r"const %s&" % own, rest):
                said = "Copies." if "= delete" not in plain else "Not copied."
            elif re.match(r"\)", rest) and "default" in rest:
                said = "Starts as the fields say."
            if said and start == index:
                lines[index] = "/** %s */ %s" % (said, line)
            continue
        if "operator" in plain and not above and start == index:
            said = None
            if re.search(r"operator=\(\w+( )?&&", plain):
                said = "Lets go of what it holds and takes over what the other one holds."
            elif re.search(r"operator=\(const", plain):
                said = "Copies." if "= delete" not in plain else "Not copied."
            elif re.search(r"operator(<=>|==)\(", plain):
                said = "Compares all that they hold."
            if said:
                lines[index] = "/** %s */ %s" % (said, line)
                continue
        match = re.search(r"(?:^|[\s&*])(\w+|operator\S+)\(", plain)
        if not match or plain.startswith(("}", "if", "for", "while", "throw", "else")):
            continue
        indent = len(line) - len(line.lstrip())
        name = match.group(1)
        # `Result<X> try_name(` may be broken after its type.
        pair = re.search(r"\b(try_\w+)\(", plain)
        if pair and above and indent <= 4:
            last[pair.group(1)] = above
            documented = (pair.group(1), above)
            continue
        if indent > 4:
            continue
        if above:
            documented = (name, above)
            continue
        if name == documented[0] and start == index or name == documented[0] and "template" in lines[start]:
            # An overload right after a documented one.
            text = "\n".join(re.sub(r"^/// ?", "", each) for each in documented[1])
            lines[start] = "/** %s */ %s" % (text, lines[start])
            continue
        if "try_" + name in last and not re.search(r"\b(return|=)\b.*\b%s\(" % name, plain) and (
            re.match(r"(\[\[|template|[\w:<>,\s\*&\[\]\(\)\"]+\s)", plain)
        ):
            comment = [re.sub(r"^/// ?", "", each) for each in last["try_" + name]]
            text = "\n".join(comment)
            note = "@note Throws kvm::Error where try_%s() returns one." % name
            addition = "/** %s\n%s */ " % (text, note)
            if "///" in lines[start]:
                continue
            lines[start] = addition + lines[start]


def fixed_members(lines):
    for index, line in enumerate(lines):
        if re.match(r"\s*static constexpr unsigned arches = ", line):
            lines[index] = "/** The architectures that can have this exit: a set of kvm::Arch. */" + line


def escape_comments(lines):
    """#GP and ::name in comments are text, not links."""
    for index, line in enumerate(lines):
        if "///" in line:
            code, slashes, comment = line.partition("///")
            comment = re.sub(r"#([A-Z]{2})\b", r"\\#\1", comment)
            comment = re.sub(r"(?<![\w>`:])::(\w)", r"%::\1", comment)
            lines[index] = code + slashes + comment


def first_definitions(lines):
    """Of config.hpp's macros, which depend on the target, one definition each."""
    seen = set()
    for index, line in enumerate(lines):
        define = re.match(r"#define (KVM_HPP_\w+)", line)
        if define and define.group(1) not in seen:
            seen.add(define.group(1))
        elif define or (seen and re.match(r"#(if|elif|else|endif|error|undef)\b", line)):
            lines[index] = ""


def header_line(lines, number):
    """Which line of the header line `number` of what Doxygen read comes from."""
    for index, line in enumerate(lines):
        number -= 1 + line.count("\n")
        if number <= 0:
            return index + 1
    return len(lines)


def guide(text):
    """A Markdown page: pictures by their name alone, links to kvm::cap and kvm::exits, and code that
    only looks like a name of the library left alone."""
    text = re.sub(r"\]\((?:\.\./)?pictures/([\w-]+\.svg)\)", r"](\1)", text)
    text = re.sub(r"\[([^]]+)\]\(\.\./[A-Z]+\.md\)", r"\1", text)  # No page is made of these.
    out = []
    fenced = False
    for line in text.split("\n"):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            parts = line.split("`")
            for index, part in enumerate(parts):
                if index % 2 == 0:
                    parts[index] = re.sub(r"(?<![\w:/])(cap|exits)::(\w+)", r"kvm::\1::\2", part)
            line = "`".join(parts)
            line = re.sub(
                r"`([^`]*-hpp::[^`]*|::\w+)`",
                lambda found: "<code>%s</code>" % found.group(1).replace("::", "\\::"),
                line,
            )
        out.append(line)
    return "\n".join(out)


def main():
    path = sys.argv[1]
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if path.endswith(".md"):
        sys.stdout.write(guide(text))
        return
    text = text.replace("#if !KVM_HPP_ARCH_RISCV", "#if 1")
    text = text.replace("detail::ArchVm ", "x86::VmCalls ").replace("detail::ArchVcpu ", "x86::VcpuCalls ")
    text = text.replace("detail::ArchSystem ", "x86::SystemCalls ")
    # Those templates have no parameter to give.
    # (What follows takes its line, since x() stands right below try_x().)
    text = re.sub(r"^ *template <class = void>.*\n(.*\n)", r"\1\n", text, flags=re.MULTILINE)
    text = text.replace('__attribute__((visibility("default"))) ', "")
    text = text.replace("Observation(Observation &&)", "Observation(Observation&&)")
    # Doxygen takes the members of an anonymous union for public ones.
    text = re.sub(r"  union \{.*?\};", lambda found: "\n" * found.group().count("\n"), text, flags=re.DOTALL)
    lines = text.split("\n")
    escape_comments(lines)
    hide_detail(lines)
    hide_flag_names(lines)
    if "/capability/" in path:
        spread_capabilities(lines)
    if path.endswith("detail/config.hpp"):
        first_definitions(lines)
    if path.endswith("detail/kernel_header.hpp"):
        lines = ["" if line.startswith("#define KVM_HPP_REFUSED") else line for line in lines]
    fixed_members(lines)
    spread_pairs(lines)
    if len(sys.argv) > 2:
        print(header_line(lines, int(sys.argv[2])))
    else:
        sys.stdout.write("\n".join(lines))


main()
