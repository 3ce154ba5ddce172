// SPDX-License-Identifier: MIT
#include "errnos.hpp"

#include <kvm/kvm.hpp>

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

namespace fault {
namespace {

using Errnos = std::vector<int>;

constexpr unsigned long madv_populate_write = 23;  // Linux 5.14: headers may lack it.

// A signal, a dead VM, a process that forked, a seccomp filter, a descriptor that somebody closed:
// any ioctl can give these.
const Errnos any_ioctl = {EINTR, EIO, EBADF, ENOTTY, EPERM, EINVAL, EFAULT, ENOMEM};

struct Ioctl {
  unsigned long code;
  const char* name;
  Errnos more;
};

const std::vector<Ioctl>& ioctls() {
  namespace request = kvm::uapi::request;
  const auto row = [](const auto& r, Errnos more = {}) {
    return Ioctl{r.code, r.name, std::move(more)};
  };
  static const std::vector<Ioctl> table = {
    row(request::get_api_version),
    row(request::create_vm, {EMFILE, ENFILE, EBUSY, ENODEV, EOPNOTSUPP, ENOSPC}),
    row(request::check_extension),
    row(request::get_vcpu_mmap_size),
    row(request::create_vcpu, {EEXIST, EBUSY, EMFILE, ENFILE, EAGAIN}),
    row(request::set_user_memory_region, {EEXIST, EAGAIN}),
    row(request::create_guest_memfd, {EMFILE, ENFILE, ENOSPC}),
    row(request::create_device, {ENODEV, EEXIST, EBUSY, EMFILE, ENFILE, EOPNOTSUPP}),
    row(request::has_device_attr, {ENXIO}),
    row(request::get_device_attr, {ENXIO, EBUSY, ENODEV}),
    row(request::set_device_attr, {ENXIO, EBUSY, ENODEV, EEXIST, E2BIG}),
    row(request::enable_cap, {EEXIST, EBUSY, ENOENT, E2BIG, ENXIO, EOPNOTSUPP}),
    row(request::set_signal_mask),
    row(request::run, {EAGAIN, EHWPOISON, ENOEXEC, ENOSYS}),
    row(request::get_one_reg, {ENOENT, EBUSY}),
    row(request::set_one_reg, {ENOENT, EBUSY}),
    row(request::get_reg_list, {E2BIG, ENOEXEC}),
    row(request::get_mp_state, {ENXIO}),
    row(request::set_mp_state, {EBUSY}),
    row(request::set_guest_debug, {EBUSY}),
    row(request::irqfd, {EBUSY, EAGAIN}),
    row(request::ioeventfd, {EEXIST, ENOENT, ENOSPC}),
    row(request::set_gsi_routing),
    row(request::register_coalesced_mmio, {EEXIST, ENOSPC}),
    row(request::unregister_coalesced_mmio),
#if KVM_HPP_ARCH_X86
    row(request::get_regs),
    row(request::set_regs),
    row(request::get_sregs),
    row(request::set_sregs),
    row(request::get_sregs2),
    row(request::set_sregs2),
    row(request::get_fpu),
    row(request::set_fpu),
    row(request::get_xsave),
    row(request::get_xsave2),
    row(request::set_xsave),
    row(request::get_xcrs),
    row(request::set_xcrs),
    row(request::get_debugregs),
    row(request::set_debugregs),
    row(request::get_vcpu_events),
    row(request::set_vcpu_events),
    row(request::get_lapic),
    row(request::set_lapic),
    row(request::get_msrs, {E2BIG}),
    row(request::set_msrs, {E2BIG}),
    row(request::get_msr_index_list, {E2BIG}),
    row(request::get_msr_feature_index_list, {E2BIG}),
    row(request::get_cpuid2, {E2BIG}),
    row(request::set_cpuid2, {E2BIG}),
    row(request::get_supported_cpuid, {E2BIG}),
    row(request::get_emulated_cpuid, {E2BIG}),
    row(request::get_tsc_khz),
    row(request::set_tsc_khz),
    row(request::translate),
    row(request::create_irqchip, {EEXIST}),
    row(request::get_irqchip, {ENXIO}),
    row(request::set_irqchip, {ENXIO}),
    row(request::create_pit2, {EEXIST, ENOENT}),
    row(request::get_pit2, {ENXIO}),
    row(request::set_pit2, {ENXIO}),
    row(request::reinject_control, {ENXIO}),
    row(request::irq_line, {ENXIO}),
    row(request::irq_line_status, {ENXIO}),
    row(request::signal_msi),
    row(request::get_clock),
    row(request::set_clock),
    row(request::set_tss_addr),
    row(request::set_identity_map_addr, {EBUSY}),
    row(request::set_boot_cpu_id, {EBUSY}),
    row(request::set_nr_mmu_pages),
    row(request::x86_set_msr_filter),
    row(request::interrupt, {ENXIO, EEXIST}),
    row(request::nmi),
    row(request::smi),
    row(request::tpr_access_reporting),
    row(request::set_vapic_addr),
    row(request::kvmclock_ctrl),
    row(request::x86_setup_mce),
    row(request::x86_set_mce),
    row(request::x86_get_mce_cap_supported),
    row(request::get_nested_state, {E2BIG}),
    row(request::set_nested_state),
    row(request::get_supported_hv_cpuid, {E2BIG}),
#endif
  };
  return table;
}

const Ioctl* find(unsigned long request) {
  for (const Ioctl& ioctl : ioctls()) {
    if (ioctl.code == request) {
      return &ioctl;
    }
  }
  return nullptr;
}

}  // namespace

std::string operation_of(const Call& call) {
  switch (call.function) {
    case Function::ioctl: {
      const Ioctl* const ioctl = find(call.detail);
      return ioctl != nullptr ? ioctl->name : "ioctl " + std::to_string(call.detail);
    }
    case Function::madvise:
      switch (call.detail) {
        case MADV_DONTFORK:
          return "MADV_DONTFORK";
        case MADV_DONTNEED:
          return "MADV_DONTNEED";
        case MADV_WIPEONFORK:
          return "MADV_WIPEONFORK";
        case MADV_HUGEPAGE:
          return "MADV_HUGEPAGE";
        case madv_populate_write:
          return "MADV_POPULATE_WRITE";
        default:
          return "madvise " + std::to_string(call.detail);
      }
    case Function::syscall:
      switch (call.detail) {
        case SYS_gettid:
          return "gettid";
        case SYS_tgkill:
          return "tgkill";
        case SYS_membarrier:
          return "membarrier";
        case SYS_rt_sigtimedwait:
          return "sigtimedwait";
        case SYS_nanosleep:
          return "nanosleep";
        case SYS_memfd_create:
          return "memfd_create";
        case SYS_mbind:
          return "mbind";
        case SYS_eventfd2:
          return "eventfd";
        case SYS_write:
          return "write";
        case SYS_ppoll:
          return "ppoll";
        default:
          return "syscall " + std::to_string(call.detail);
      }
    default:
      return name(call.function);
  }
}

std::vector<int> errnos_of(const Call& call) {
  switch (call.function) {
    case Function::open:
      return {EACCES, EPERM,  ENOENT, ENXIO,   ENODEV, EMFILE,      ENFILE,
              ENOMEM, EISDIR, EINTR,  ENOTDIR, ELOOP,  ENAMETOOLONG};
    case Function::close:
      return {EINTR, EIO, EBADF};
    case Function::read:
      return {EINTR, EIO, EISDIR, EAGAIN, ENOMEM};
    case Function::stat:
      return {EACCES, ENOENT, ENOMEM, ELOOP, EOVERFLOW};
    case Function::readv:
    case Function::preadv:
      return {EINTR, EIO, EISDIR, EAGAIN, ENOMEM, EFAULT, EINVAL, ESPIPE};
    case Function::writev:
    case Function::pwritev:
      return {EINTR, EIO, ENOSPC, EAGAIN, ENOMEM, EFAULT, EINVAL, ESPIPE, EPIPE, EFBIG, EDQUOT};
    case Function::fstat:
      return {EBADF, ENOMEM, EOVERFLOW, EIO};
    case Function::fstatfs:
      return {EBADF, EINTR, EIO, ENOMEM, ENOSYS, EOVERFLOW};
    case Function::ftruncate:
      return {EINTR, EINVAL, EFBIG, EIO, EPERM, ENOMEM};
    case Function::fallocate:
      return {EBADF, EFBIG, EINTR, EINVAL, EIO, ENODEV, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM};
    case Function::mprotect:
      return {EACCES, EINVAL, ENOMEM};
    case Function::fcntl:
      switch (call.detail) {
        case F_DUPFD_CLOEXEC:
          return {EBADF, EMFILE, EINVAL};
        case F_ADD_SEALS:
          return {EBADF, EBUSY, EINVAL, EPERM};
        case F_GET_SEALS:
          return {EBADF, EINVAL};
        default:
          return {EBADF, EPERM};
      }
    case Function::mmap:
      return {ENOMEM, EAGAIN, EPERM, EACCES, ENODEV, EINVAL, ENFILE};
    case Function::munmap:
      return {ENOMEM, EINVAL};
    case Function::madvise:
      if (call.detail == madv_populate_write) {
        return {EINVAL, ENOMEM, EAGAIN, EPERM, EFAULT, EHWPOISON, EINTR};
      }
      return {EINVAL, ENOMEM, EAGAIN, EPERM};
    case Function::sigaction:
      return {EINVAL};
    case Function::pthread_sigmask:
      return {EINVAL};
    case Function::getpid:
      return {};
    case Function::sysconf:
      return {};
    case Function::syscall:
      switch (call.detail) {
        case SYS_tgkill:
          return {EAGAIN, ESRCH, EPERM};
        case SYS_membarrier:
          return {ENOSYS, EINVAL, EPERM};
        case SYS_eventfd2:
          return {EMFILE, ENFILE, ENOMEM, ENODEV, EINVAL};
        case SYS_write:
          return {EAGAIN, EINTR, EBADF, EINVAL, EIO};
        case SYS_ppoll:
          return {EINTR, EINVAL, ENOMEM, EFAULT};
        case SYS_rt_sigtimedwait:
          return {EAGAIN, EINTR};
        case SYS_nanosleep:
          return {EINTR};
        case SYS_memfd_create:
          return {EINVAL, EMFILE, ENFILE, ENOMEM, EPERM, EACCES, ENOSYS};
        case SYS_mbind:
          return {EINVAL, ENOMEM, EFAULT, EIO, EPERM, ENOSYS};
        default:
          return {};
      }
    case Function::ioctl: {
      Errnos all = any_ioctl;
      if (const Ioctl* const ioctl = find(call.detail)) {
        all.insert(all.end(), ioctl->more.begin(), ioctl->more.end());
      } else {
        all.clear();  // describe() names it: the driver fails on a request without a row.
      }
      return all;
    }
  }
  return {};
}

std::string describe(const Call& call, int error_number) {
  return operation_of(call) + " fails with errno " + std::to_string(error_number) + " (" +
         std::strerror(error_number) + ")";
}

}  // namespace fault
