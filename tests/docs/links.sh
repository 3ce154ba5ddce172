#!/bin/sh
# SPDX-License-Identifier: MIT
# sh tests/docs/links.sh   (from the top of the repository)
#
# What the documents link to or show exists: files beside them, and headings within them.
set -eu
failures=0
links=0
fail() {
  printf '%s\n' "$*"
  failures=$((failures + 1))
}

# headings FILE: the names that a forge gives to its headings.
headings() {
  sed -n '/^```/,/^```$/d; s/^##* *//p' "$1" | tr '[:upper:]' '[:lower:]' | sed 's/[^a-z0-9 _-]//g; s/ /-/g'
}

for document in *.md docs/*.md docs/guides/*.md; do
  # Links to other hosts are not followed.
  for link in $(sed '/^```/,/^```$/d; s/`[^`]*`//g' "$document" | grep -o '](\([^)]*\))' | sed 's/^](//; s/)$//' | grep -v '^[a-z]*:' || true); do
    links=$((links + 1))
    file=${link%%#*}
    target=$document
    [ -z "$file" ] || target=$(dirname "$document")/$file
    if [ ! -e "$target" ]; then
      fail "$document: there is no $link"
    elif [ "$link" != "$file" ] && ! headings "$target" | grep -qx -- "${link#*#}"; then
      fail "$document: $target has no heading ${link#*#}"
    fi
  done
done
# No picture that nothing shows.
for picture in docs/pictures/*.svg; do
  grep -q "pictures/$(basename "$picture")" docs/*.md docs/guides/*.md || fail "$picture is shown nowhere"
done
printf '%s links, %s failures\n' "$links" "$failures"
[ "$failures" = 0 ] && [ "$links" -gt 0 ]
