// SPDX-License-Identifier: MIT
#include "device_tree.hpp"

#include <algorithm>

namespace tinyvmm {
namespace {

// What the structure consists of.
constexpr std::uint32_t begin_node = 1;
constexpr std::uint32_t end_node = 2;
constexpr std::uint32_t begin_property = 3;
constexpr std::uint32_t end_tree = 9;

constexpr std::uint32_t magic = 0xd00dfeed;
constexpr std::uint32_t version = 17;
constexpr std::uint32_t oldest_compatible_version = 16;
constexpr std::uint32_t header_size = 40;
constexpr std::uint32_t reservations_size = 16;  ///< an entry of zeros: nothing is reserved

}  // namespace

DeviceTree::DeviceTree() { begin(""); }

void DeviceTree::begin(std::string_view name) {
  append32(structure_, begin_node);
  append(structure_, name);
  align();
}

void DeviceTree::end() { append32(structure_, end_node); }

void DeviceTree::cells(std::string_view name, std::initializer_list<std::uint32_t> values) {
  Bytes bytes;
  for (const std::uint32_t value : values) {
    append32(bytes, value);
  }
  property(name, bytes);
}

void DeviceTree::cells64(std::string_view name, std::initializer_list<std::uint64_t> values) {
  Bytes bytes;
  for (const std::uint64_t value : values) {
    append32(bytes, static_cast<std::uint32_t>(value >> 32));
    append32(bytes, static_cast<std::uint32_t>(value));
  }
  property(name, bytes);
}

void DeviceTree::text(std::string_view name, std::initializer_list<std::string_view> values) {
  Bytes bytes;
  for (const std::string_view value : values) {
    append(bytes, value);
  }
  property(name, bytes);
}

std::vector<std::byte> DeviceTree::finish() {
  end();
  append32(structure_, end_tree);

  const auto structure_size = static_cast<std::uint32_t>(structure_.size());
  const auto strings_size = static_cast<std::uint32_t>(strings_.size());
  const std::uint32_t structure_at = header_size + reservations_size;
  const std::uint32_t strings_at = structure_at + structure_size;
  Bytes out;
  for (const std::uint32_t value :
       {magic, strings_at + strings_size, structure_at, strings_at, header_size, version,
        oldest_compatible_version, /*boot cpu:*/ std::uint32_t{0}, strings_size, structure_size}) {
    append32(out, value);
  }
  out.resize(structure_at);
  out.insert(out.end(), structure_.begin(), structure_.end());
  out.insert(out.end(), strings_.begin(), strings_.end());
  return out;
}

/// Device trees are big-endian.
void DeviceTree::append32(Bytes& out, std::uint32_t value) {
  for (const unsigned shift : {24u, 16u, 8u, 0u}) {
    out.push_back(static_cast<std::byte>(value >> shift));
  }
}

/// With a zero behind it.
void DeviceTree::append(Bytes& out, std::string_view text) {
  std::transform(text.begin(), text.end(), std::back_inserter(out),
                 [](char c) { return static_cast<std::byte>(c); });
  out.push_back(std::byte{0});
}

void DeviceTree::property(std::string_view name, const Bytes& value) {
  auto known = offsets_.find(name);
  if (known == offsets_.end()) {
    known = offsets_.emplace(name, static_cast<std::uint32_t>(strings_.size())).first;
    append(strings_, name);
  }
  append32(structure_, begin_property);
  append32(structure_, static_cast<std::uint32_t>(value.size()));
  append32(structure_, known->second);
  structure_.insert(structure_.end(), value.begin(), value.end());
  align();
}

void DeviceTree::align() { structure_.resize((structure_.size() + 3) / 4 * 4); }

}  // namespace tinyvmm
