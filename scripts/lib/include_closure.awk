# SPDX-License-Identifier: MIT
# Reads C++ headers of include/kvm; prints for each, on a line of its own, "header: item..." with every
# header of the library that it includes, through others too and for any architecture, and every
# standard header that it or one of these names, as <name>.
FNR == 1 { file = FILENAME; sub(/.*include\/kvm\//, "", file); sub(/[.]hpp$/, "", file); headers[++n] = file }
/^ *# *include <kvm\// {
  name = $0; sub(/.*<kvm\//, "", name); sub(/[.]hpp>.*/, "", name)
  ours[file] = ours[file] " " name
}
/^ *# *include <[a-z_]+>/ { name = $0; sub(/.*</, "<", name); sub(/>.*/, ">", name); standard[file] = standard[file] " " name }
function visit(header,   parts, i, count) {
  if (header in seen) return
  seen[header] = 1
  count = split(standard[header], parts, " ")
  for (i = 1; i <= count; i++) items[parts[i]] = 1
  count = split(ours[header], parts, " ")
  for (i = 1; i <= count; i++) { items[parts[i]] = 1; visit(parts[i]) }
}
END {
  for (h = 1; h <= n; h++) {
    delete seen; delete items
    visit(headers[h])
    line = headers[h] ":"
    for (item in items) line = line " " item
    print line
  }
}
