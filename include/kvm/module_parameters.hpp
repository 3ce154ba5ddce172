// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_MODULE_PARAMETERS_HPP
#define KVM_HPP_MODULE_PARAMETERS_HPP

#include <kvm/detail/config.hpp>
#if !KVM_HPP_REFUSED

#include <kvm/detail/syscalls.hpp>
#include <kvm/error.hpp>
#include <kvm/fd.hpp>

#include <cerrno>
#include <charconv>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

/// @file
/// What KVM's modules were loaded with, read from /sys/module. Needs no
/// /dev/kvm. Parameters come and go with kernels: one that is missing is an
/// ordinary answer, not a failure of the program.

KVM_HPP_BEGIN
namespace detail {

inline constexpr char module_directory[] = "/sys/module/";

/// The types that a parameter can be read as.
template <class T>
concept ParameterValue = std::same_as<T, std::string> || std::integral<T>;

/// A parameter's text in its type: "Y" and "N" (or 1 and 0) are bools, numbers
/// are decimal or, after 0x, hexadecimal. Nothing if it is none, or too large.
template <ParameterValue T>
std::optional<T> parse_parameter(std::string_view text) {
  if constexpr (std::same_as<T, std::string>) {
    return std::string(text);
  } else if constexpr (std::same_as<T, bool>) {
    if (text == "Y" || text == "1") {
      return true;
    }
    if (text == "N" || text == "0") {
      return false;
    }
    return std::nullopt;
  } else {
    const bool hexadecimal = text.starts_with("0x");
    if (hexadecimal) {
      text.remove_prefix(2);
      if (text.starts_with('-')) {
        return std::nullopt;
      }
    }
    T value{};
    const auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), value, hexadecimal ? 16 : 10);
    if (error != std::errc{} || end != text.data() + text.size()) {
      return std::nullopt;
    }
    return value;
  }
}

/// A file below `directory` without its closing newline, or an errno value.
struct ParameterText {
  std::string text;
  int error_number = 0;
};
template <class = void>  // Costs nothing where it is not called.
ParameterText read_parameter(std::string_view directory, std::string_view module,
                             std::string_view name) {
  // A name is one step down: it cannot lead elsewhere.
  for (const std::string_view step : {module, name}) {
    if (step.empty() || step == "." || step == ".." ||
        step.find_first_of(std::string_view("/\0", 2)) != std::string_view::npos) {
      return {.text = {}, .error_number = EINVAL};
    }
  }
  const std::string path = text(directory, module, "/parameters/", name);
  const Fd fd(sys::open(path.c_str(), O_RDONLY));
  if (!fd) {
    return {.text = {}, .error_number = errno};
  }
  ParameterText out;
  char buffer[4096];  // The kernel gives at most a page.
  for (;;) {
    const auto bytes = sys::read(fd.get(), buffer, sizeof buffer);
    if (bytes < 0 && errno == EINTR) {
      continue;
    }
    if (bytes < 0) {
      return {.text = {}, .error_number = errno};
    }
    if (bytes == 0 || out.text.size() > sizeof buffer) {
      break;
    }
    out.text.append(buffer, static_cast<std::size_t>(bytes));
  }
  if (out.text.ends_with('\n')) {
    out.text.pop_back();
  }
  return out;
}

template <ParameterValue T>
Result<T> try_parameter(std::string_view directory, std::string_view name,
                        std::string_view module) {
  constexpr auto operation = "module_parameter";
  const auto arguments = [&] { return text("module=", module, ", name=", name); };
  const ParameterText read = read_parameter<>(directory, module, name);
  if (read.error_number != 0) {
    std::string_view cause;
    switch (read.error_number) {
      case ENOENT:
        cause = "the module is not loaded, or this kernel's has no such parameter";
        break;
      case EACCES:
      case EPERM:
        cause = "this parameter is not for every user to read";
        break;
      case EINVAL:
        cause = "this is not the name of a module and a parameter";
        break;
      default:
        break;
    }
    return make_error(read.error_number, operation, arguments(), cause);
  }
  auto value = parse_parameter<T>(read.text);
  if (!value) {
    return make_error(EINVAL, operation, arguments(),
                      text("\"", read.text, "\" is not a value of the type asked for"));
  }
  return *std::move(value);
}

}  // namespace detail

/// Reads a parameter of a loaded module, such as `module_parameter<bool>("nx_huge_pages")`:
/// the file /sys/module/MODULE/parameters/NAME. Its text as a std::string, a
/// bool (Y and N, 1 and 0) or an integer. Fails with ENOENT if there is no such
/// module or parameter, EACCES if this user may not read it, EINVAL if it is
/// not of that type or does not fit. Any thread may call it.
/// @param module "kvm", or what drives the hardware: "kvm_intel", "kvm_amd"
template <class T = std::string>
Result<T> try_module_parameter(std::string_view name, std::string_view module = "kvm") {
  static_assert(detail::ParameterValue<T>,
                "a module parameter is read as a std::string, a bool or an integer");
  return detail::try_parameter<T>(detail::module_directory, name, module);
}
template <class T = std::string>
T module_parameter(std::string_view name, std::string_view module = "kvm") {
  return try_module_parameter<T>(name, module).value();
}

/// How long KVM polls for a vCPU that halts before it lets the host's CPU go,
/// for VMs that do not say otherwise (cap::HaltPoll). A field is empty where
/// the kernel lacks it or this user may not read it.
struct HaltPollParameters {
  /// halt_poll_ns: the longest that a vCPU is polled for, in nanoseconds; 0 never polls.
  std::optional<std::uint32_t> max_ns;
  /// halt_poll_ns_grow: what the time is multiplied by when polling longer would have paid off.
  std::optional<std::uint32_t> grow;
  /// halt_poll_ns_grow_start: the time that it grows to from 0, in nanoseconds.
  std::optional<std::uint32_t> grow_start_ns;
  /// halt_poll_ns_shrink: what the time is divided by when polling was in vain; 0 sets it to 0.
  std::optional<std::uint32_t> shrink;

  constexpr bool operator==(const HaltPollParameters&) const = default;
};

/// Reads the module kvm's four parameters for polling, as they are now: root
/// can change them at any time. Any thread may call it.
template <class = void>
HaltPollParameters halt_poll_parameters() {
  const auto read = [](std::string_view name) -> std::optional<std::uint32_t> {
    auto value = try_module_parameter<std::uint32_t>(name);
    return value ? std::optional(*value) : std::nullopt;
  };
  return {.max_ns = read("halt_poll_ns"),
          .grow = read("halt_poll_ns_grow"),
          .grow_start_ns = read("halt_poll_ns_grow_start"),
          .shrink = read("halt_poll_ns_shrink")};
}

KVM_HPP_END

#endif  // !KVM_HPP_REFUSED
#endif
