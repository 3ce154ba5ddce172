// SPDX-License-Identifier: MIT
// Whatever a run page holds, decoding it and touching all that a handler may
// touch stays inside the mapping.
#include "support/run_page.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

/// The input: two bytes of size and errno, then the mapping.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t header = 2;
  if (size < header) {
    return 0;
  }
  constexpr std::size_t least = (sizeof(kvm::uapi::kvm_run) + 7) / 8 * 8;
  // From the run page alone to three pages.
  constexpr std::size_t steps = (kvm_test::RunPage::usual_size - least) / 8 + 1;
  kvm_test::RunPage page(least + data[0] * steps / 256 * 8);
  const auto bytes = page.bytes();
  std::memcpy(bytes.data(), data + header, std::min(size - header, bytes.size()));

  const int error_number = data[1];
  const kvm::Exit exit = error_number == 0 ? page.decode() : page.decode_failure(error_number);
  const std::vector<std::byte> before(bytes.begin(), bytes.end());
  kvm_test::Toucher toucher(bytes);
  exit.visit(toucher);
  if (toucher.exits() != 1 || exit.name() == nullptr ||
      !std::equal(before.begin(), before.end(), bytes.begin())) {
    std::abort();
  }
  return 0;
}
