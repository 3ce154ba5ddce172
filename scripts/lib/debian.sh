# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced after packages.sh: packages of any Debian release and architecture, fetched and unpacked
# into a cache without touching the system. They come from the mirror that this machine's apt uses,
# or from the one that KVM_HPP_DEBIAN_MIRROR names, and apt verifies their signatures.

cache=${KVM_HPP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvm-hpp}
debian_suites=(bullseye bookworm trixie trixie-backports)

# apt_sources: "URI SUITE" for each suite that this machine's apt takes packages from.
apt_sources() {
  local dir=/etc/apt file
  for file in "$dir"/sources.list "$dir"/sources.list.d/*.list; do
    [[ -r $file ]] || continue
    # deb [options] URI SUITE COMPONENT...
    sed -n 's/#.*//; s/\[[^]]*\]//; /^[[:space:]]*deb[[:space:]]/p' "$file" | awk '{ print $2, $3 }'
  done
  for file in "$dir"/sources.list.d/*.sources; do
    [[ -r $file ]] || continue
    awk '
      function flush(   i, j, n, m, u, s) {
        if (enabled && (" " types " ") ~ / deb /) {
          n = split(uris, u, " "); m = split(wanted, s, " ")
          for (i = 1; i <= n; i++) for (j = 1; j <= m; j++) print u[i], s[j]
        }
        uris = wanted = types = field = ""; enabled = 1
      }
      BEGIN { enabled = 1 }
      /^#/ { next }
      /^[[:space:]]*$/ { flush(); next }
      /^[^[:space:]]/ { field = tolower($1); sub(/:.*/, "", field); sub(/^[^:]*:/, "") }
      field == "uris" { uris = uris " " $0 }
      field == "suites" { wanted = wanted " " $0 }
      field == "types" { types = types " " $0 }
      field == "enabled" && tolower($0) ~ /no|false/ { enabled = 0 }
      END { flush() }' "$file"
  done
}

# find_mirror: where the release that this machine runs comes from.
find_mirror() {
  local id codename uri suite
  if [[ -n ${KVM_HPP_DEBIAN_MIRROR:-} ]]; then
    printf '%s\n' "$KVM_HPP_DEBIAN_MIRROR"
    return
  fi
  id=$(. /etc/os-release && printf '%s' "${ID:-}")
  codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  [[ $id == debian ]] || return 0
  while read -r uri suite; do
    case $suite in
      "$codename" | stable | oldstable | testing | unstable | sid) printf '%s\n' "$uri" && return ;;
    esac
  done < <(apt_sources)
}

# private_apt COMMAND ARGUMENT...: apt-get or apt-cache with an apt root in the cache.
private_apt() {
  local command=$1 root=$cache/apt
  shift
  "$command" -q -o "Dir::Etc::SourceList=$root/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o "Dir::State::Lists=$root/lists" -o "Dir::State::status=$root/status" -o "Dir::Cache=$root/cache" \
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
    -o APT::Architecture=amd64 -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 \
    -o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

# prepare_apt: makes the private root and reads the package lists, once per process.
apt_ready=
prepare_apt() {
  [[ -z $apt_ready ]] || return 0
  local mirror keyring='' file suite root=$cache/apt
  command -v apt-get >/dev/null 2>&1 ||
    die "this needs packages of Debian, and here is no apt-get to fetch them with"
  mirror=$(find_mirror)
  [[ -n $mirror ]] ||
    die "found no Debian mirror in this machine's apt sources; name one: KVM_HPP_DEBIAN_MIRROR=http://... $0"
  for file in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
    [[ -r $file ]] && keyring=$file
  done
  if [[ -z $keyring ]]; then
    need_packages debian-archive-keyring
    for file in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
      [[ -r $file ]] && keyring=$file
    done
  fi
  mkdir -p "$root/lists/partial" "$root/cache/archives/partial"
  : >"$root/status"
  for suite in "${debian_suites[@]}"; do
    printf 'deb [arch=amd64,arm64 signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite"
  done >"$root/sources.list"
  # What could not be read is missed when a suite's packages are fetched.
  if ! private_apt apt-get update >"$root/update.log" 2>&1; then tail -n 20 "$root/update.log" >&2; fi
  apt_ready=yes
}

# unpack_packages DIR PACKAGE[:ARCH]/SUITE...: fetches packages and unpacks them into DIR. Leaves
# their file names in DIR/packages, which say the versions.
unpack_packages() {
  local dir=$1 package debs
  shift
  prepare_apt
  debs=$(mktemp -d "$cache/debs.XXXXXX")
  for package in "$@"; do
    (cd "$debs" && private_apt apt-get download "$package") || { rm -rf "$debs" && return 1; }
  done
  mkdir -p "$dir"
  for package in "$debs"/*.deb; do
    dpkg-deb -x "$package" "$dir" || { rm -rf "$debs" && return 1; }
    basename "$package" >>"$dir/packages"
  done
  rm -rf "$debs"
}
