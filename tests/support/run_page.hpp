// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_RUN_PAGE_HPP
#define KVM_HPP_TESTS_SUPPORT_RUN_PAGE_HPP

#include <kvm/exit.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>
#include <span>
#include <type_traits>

#include <sys/mman.h>
#include <unistd.h>

/// @file
/// Run pages that no KVM filled.

namespace kvm_test {

/// A vCPU's mapping that ends where the next byte faults, as does the page
/// before the one that it begins in.
class RunPage {
 public:
  static constexpr std::size_t page = 4096;
  static constexpr std::size_t usual_size = 3 * page;

  /// @param size a multiple of 8, at least sizeof(kvm_run)
  explicit RunPage(std::size_t size = usual_size) : size_(size) {
    const auto guard = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t room = (size + guard - 1) / guard * guard;
    total_ = room + 2 * guard;
    void* area = mmap(nullptr, total_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED ||
        mprotect(static_cast<std::byte*>(area) + guard, room, PROT_READ | PROT_WRITE) != 0) {
      std::abort();
    }
    area_ = static_cast<std::byte*>(area);
    run_ = new (area_ + guard + room - size) kvm::uapi::kvm_run;
  }
  RunPage(const RunPage&) = delete;
  RunPage& operator=(const RunPage&) = delete;
  ~RunPage() { munmap(area_, total_); }

  kvm::uapi::kvm_run* operator->() { return run_; }
  kvm::uapi::kvm_run& operator*() { return *run_; }
  std::span<std::byte> bytes() { return {reinterpret_cast<std::byte*>(run_), size_}; }
  std::size_t size() const { return size_; }

  kvm::Exit decode() { return kvm::Exit::decode(*run_, size_); }
  kvm::Exit decode(kvm::uapi::ExitReason reason) {
    run_->exit_reason = static_cast<std::uint32_t>(reason);
    return decode();
  }
  kvm::Exit decode_failure(int error_number) {
    return kvm::Exit::decode_failure(*run_, size_, error_number);
  }

 private:
  std::size_t size_;
  std::size_t total_;
  std::byte* area_;
  kvm::uapi::kvm_run* run_;
};

/// Reads every byte that an exit lets a handler read, and writes every byte
/// that it lets one write, with the value that is there. Ends the program when
/// that is outside the mapping.
class Toucher {
 public:
  explicit Toucher(std::span<std::byte> mapping) : mapping_(mapping) {}

  template <class E>
  void operator()(E&& exit) {
    touch(exit);
    ++exits_;
  }

  std::uint64_t sum() const { return sum_; }
  int exits() const { return exits_; }

 private:
  template <class T, std::size_t N>
  void bytes(std::span<T, N> data) {
    const auto* begin = reinterpret_cast<const std::byte*>(data.data());
    const std::size_t size = data.size_bytes();
    if (size != 0 && (begin < mapping_.data() || size > mapping_.size() ||
                      begin > mapping_.data() + (mapping_.size() - size))) {
      std::fprintf(stderr, "an exit's data lies outside the mapping\n");
      std::abort();
    }
    for (std::size_t i = 0; i < size; ++i) {
      const std::byte value = begin[i];
      sum_ = sum_ * 31 + std::to_integer<std::uint64_t>(value);
      if constexpr (!std::is_const_v<T>) {
        reinterpret_cast<std::byte*>(data.data())[i] = value;
      }
    }
  }
  template <class T>
  void object(T& value) {
    bytes(std::span<T, 1>(&value, 1));
  }
  void number(std::uint64_t value) { sum_ = sum_ * 31 + value; }

  void touch(kvm::exits::Interrupted& exit) { number(exit.kicked); }
  void touch(kvm::exits::Failed& exit) {
    number(static_cast<unsigned>(exit.error_number));
    number(std::strlen(exit.cause));
  }
  void touch(kvm::exits::Raw& exit) { bytes(exit.payload); }
  void touch(kvm::exits::IoIn& exit) { bytes(exit.data); }
  void touch(kvm::exits::IoOut& exit) { bytes(exit.data); }
  void touch(kvm::exits::MmioRead& exit) { bytes(exit.data); }
  void touch(kvm::exits::MmioWrite& exit) { bytes(exit.data); }
  void touch(kvm::exits::InternalError& exit) {
    bytes(exit.data);
    if (const auto instruction = exit.instruction_bytes()) {
      bytes(*instruction);
    }
  }
  void touch(kvm::exits::SystemEvent& exit) { bytes(exit.data); }
  void touch(kvm::exits::RiscvSbi& exit) {
    bytes(exit.args);
    bytes(exit.ret);
  }
  void touch(kvm::exits::RiscvCsr& exit) { object(*exit.ret_value); }
#if !KVM_HPP_ARCH_RISCV
  void touch(kvm::exits::Debug& exit) { object(exit.arch); }
#endif
  template <class E>
  void touch(E& exit) {
    if constexpr (requires { exit.page; }) {
      object(*exit.page);
    }
    if constexpr (requires { exit.args.size(); }) {
      bytes(exit.args);
    }
  }

  std::span<std::byte> mapping_;
  std::uint64_t sum_ = 0;
  int exits_ = 0;
};

}  // namespace kvm_test

#endif
