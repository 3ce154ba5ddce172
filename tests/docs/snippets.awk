# SPDX-License-Identifier: MIT
# awk -f tests/docs/snippets.awk GUIDE.md...   (from the top of the repository)
#
# Each block of C++ in a guide follows a line that says where it comes from:
#   <!-- snippet: tests/docs/memory_test.cpp slots -->   the lines between two "//! [slots]"
#   <!-- snippet: examples/hello/hello.cpp -->           all from the first #include on
# and must be what stands there, but for the indentation that all its lines share. Each snippet of a
# source must be in a guide. Prints what differs; the last line counts.

function fail(message) {
  printf "%s\n", message
  failures++
}

# indentation(text): how many spaces all lines of `text` that have something begin with.
function indentation(text, n, lines, i, least, here) {
  least = -1
  n = split(text, lines, "\n")
  for (i = 1; i <= n; i++) {
    if (lines[i] ~ /^ *$/) continue
    here = match(lines[i], /[^ ]/) - 1
    if (least < 0 || here < least) least = here
  }
  return least < 0 ? 0 : least
}

function outdented(text, n, lines, i, by, out) {
  by = indentation(text)
  n = split(text, lines, "\n")
  out = ""
  for (i = 1; i <= n; i++) out = out (i > 1 ? "\n" : "") substr(lines[i], by + 1)
  return out
}

# load(file): fills snippet[file, name] for each of its snippets, and whole[file].
function load(file, line, name, open, text, started) {
  if (file in loaded) return
  loaded[file] = 1
  open = ""
  while ((got = (getline line < file)) > 0) {
    if (line ~ /^ *\/\/! \[[a-z0-9-]+\]$/) {
      name = line
      sub(/^.*\[/, "", name)
      sub(/\]$/, "", name)
      if (open == "") {
        open = name
        text = ""
      } else if (open == name) {
        if ((file, name) in snippet) fail(file ": two snippets are called " name)
        snippet[file, name] = outdented(text)
        open = ""
      } else {
        fail(file ": [" open "] is not ended before [" name "] begins")
      }
      continue
    }
    if (open != "") text = text (text == "" ? "" : "\n") line
    if (line ~ /^#include/) started = 1
    if (started) whole[file] = whole[file] (whole[file] == "" ? "" : "\n") line
  }
  if (got < 0) fail(file ": cannot be read")
  close(file)
  if (open != "") fail(file ": [" open "] is not ended")
}

FNR == 1 { source = "" }

/^<!-- snippet: [^ ]+( [a-z0-9-]+)? -->$/ {
  source = $3
  name = $4 == "-->" ? "" : $4
  next
}

/^```cpp$/ {
  where = FILENAME ":" FNR
  if (source == "") fail(where ": this block does not say where it is tested")
  block = ""
  inside = 1
  next
}

/^```$/ && inside {
  inside = 0
  blocks++
  if (source == "") next
  load(source)
  expected = name == "" ? whole[source] : snippet[source, name]
  if (name != "" && !((source, name) in snippet)) fail(where ": " source " has no snippet " name)
  else if (block != expected) fail(where ": is not what stands in " source (name == "" ? "" : " as [" name "]"))
  else same++
  used[source, name] = 1
  source = ""
  next
}

inside { block = block (block == "" ? "" : "\n") $0 }

END {
  while (("ls tests/docs/*_test.cpp" | getline file) > 0) load(file)
  for (key in snippet) {
    if (!(key in used)) {
      split(key, parts, SUBSEP)
      fail(parts[1] ": [" parts[2] "] is in no guide")
    }
  }
  printf "%d blocks of C++, %d as they are tested, %d failures\n", blocks, same, failures
  exit !(failures == 0 && same > 0 && same == blocks)
}
