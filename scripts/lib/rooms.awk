# SPDX-License-Identifier: MIT
# awk -v room=ROOM -f rooms.awk rooms.txt CLOSURE: compares what include_closure.awk found of a room with
# what the list allows it. Prints what is wrong, and fails then.
function end_line(   parts, n, i, name) {
  n = split(line, parts, " ")
  name = parts[1]
  sub(/:$/, "", name)
  for (i = 2; i <= n; i++) {
    if (parts[i] !~ /^@/) allowed[name, parts[i]] = 1
    else if (!(parts[i] in sets)) bad("rooms.txt has no " parts[i] " above " name)
    else copy(parts[i], name)
  }
  if (name ~ /^@/) sets[name] = 1
  else if (name == room) found = 1
  line = ""
}
function copy(set, name,   key, pair) {
  for (key in allowed) {
    split(key, pair, SUBSEP)
    if (pair[1] == set) copied[pair[2]] = 1
  }
  for (key in copied) allowed[name, key] = 1
  delete copied
}
function bad(text) { print text; failed = 1 }
NR == FNR {
  if (/^#/ || NF == 0) next
  if (/^ /) { line = line " " $0; next }
  if (line != "") end_line()
  line = $0
  next
}
line != "" { end_line() }
$1 == room ":" {
  seen = 1
  for (i = 2; i <= NF; i++) if ($i != room && !((room, $i) in allowed)) extra = extra " " $i
}
END {
  if (!found) bad("scripts/lib/rooms.txt does not say what it may include")
  else if (!seen) bad("there is no such header")
  else if (extra != "") bad("includes what scripts/lib/rooms.txt does not allow it:" extra)
  exit failed
}
