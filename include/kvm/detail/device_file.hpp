// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_DEVICE_FILE_HPP
#define KVM_HPP_DETAIL_DEVICE_FILE_HPP

#include <kvm/detail/syscalls.hpp>
#include <kvm/error.hpp>
#include <kvm/fd.hpp>

#include <cerrno>
#include <cstddef>
#include <string>
#include <string_view>

/// @file
/// Why /dev/kvm cannot be opened, in words.

KVM_HPP_BEGIN
namespace detail {

/// The content of a small file, or an empty string.
inline std::string read_text_file(const char* path) {
  const Fd fd(sys::open(path, O_RDONLY));
  std::string content;
  char buffer[4096];
  constexpr std::size_t limit = std::size_t{1} << 20;
  while (fd && content.size() < limit) {
    const auto bytes = sys::read(fd.get(), buffer, sizeof buffer);
    if (bytes < 0 && errno == EINTR) {
      continue;
    }
    if (bytes <= 0) {
      break;
    }
    content.append(buffer, static_cast<std::size_t>(bytes));
  }
  return content;
}

/// The name of a group, or its number. Read from the file: the C library's
/// look-up does not work in static programs.
inline std::string group_name(gid_t group) {
  std::string number = std::to_string(group);
  const std::string file = read_text_file("/etc/group");
  // A line is name:password:number:members.
  for (std::string_view rest = file; !rest.empty();) {
    const auto end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    const auto first = line.find(':');
    const auto second = first == std::string_view::npos ? first : line.find(':', first + 1);
    const auto third = second == std::string_view::npos ? second : line.find(':', second + 1);
    if (third != std::string_view::npos && line.substr(second + 1, third - second - 1) == number) {
      return text("\"", line.substr(0, first), "\"");
    }
  }
  return number;
}

inline Error open_failure(int error_number, const char* path) {
  const auto fail = [&](std::string_view cause) {
    return make_error(error_number, "open", path, cause);
  };
  if (error_number == ENOENT && std::string_view(path) != "/dev/kvm") {
    return fail("there is no such file; KVM's device is /dev/kvm");
  }
  switch (error_number) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return fail(
          "this host offers no KVM: load the module (modprobe kvm_intel or kvm_amd on x86), enable "
          "virtualization in the firmware, or nested virtualization where this is a VM itself; in "
          "a container, pass the device in");
    case EACCES:
    case EPERM: {
      struct ::stat status {};
      if (sys::stat(path, &status) != 0) {
        return fail("no permission");
      }
      constexpr mode_t group_may = 060;
      if ((status.st_mode & group_may) != group_may) {
        return fail(text("no permission: only its owner, user ", status.st_uid,
                         ", may open it, not its group ", group_name(status.st_gid)));
      }
      return fail(text("no permission: the device belongs to the group ", group_name(status.st_gid),
                       "; become a member of it (usermod -aG) and log in again"));
    }
    case EISDIR:
      return fail("this is a directory, not KVM's device");
    case EMFILE:
    case ENFILE:
      return fail("too many files are open");
    default:
      return fail({});
  }
}

}  // namespace detail
KVM_HPP_END

#endif
