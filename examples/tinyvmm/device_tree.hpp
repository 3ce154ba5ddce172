// SPDX-License-Identifier: MIT
#ifndef TINYVMM_DEVICE_TREE_HPP
#define TINYVMM_DEVICE_TREE_HPP

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tinyvmm {

/// Writes a flattened device tree, the form in which a kernel is told what its machine consists of
/// (Devicetree Specification, chapter 5). Nodes are begun and ended like brackets; a node's
/// properties stand before its children.
class DeviceTree {
 public:
  /// Begins with the root.
  DeviceTree();

  /// @param name with its unit address, if it has one: "serial@9000000"
  void begin(std::string_view name);
  void end();

  /// A property that is there or not.
  void flag(std::string_view name) { property(name, {}); }
  /// 32-bit numbers.
  void cells(std::string_view name, std::initializer_list<std::uint32_t> values);
  /// 64-bit numbers, such as addresses and sizes.
  void cells64(std::string_view name, std::initializer_list<std::uint64_t> values);
  /// One or more texts.
  void text(std::string_view name, std::initializer_list<std::string_view> values);

  /// Ends the root. Once.
  std::vector<std::byte> finish();

 private:
  using Bytes = std::vector<std::byte>;

  static void append32(Bytes& out, std::uint32_t value);
  static void append(Bytes& out, std::string_view text);
  void property(std::string_view name, const Bytes& value);
  void align();

  Bytes structure_{};
  Bytes strings_{};  ///< the names of properties, each once
  std::map<std::string, std::uint32_t, std::less<>> offsets_{};
};

}  // namespace tinyvmm

#endif
