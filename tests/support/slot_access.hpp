// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_TESTS_SUPPORT_SLOT_ACCESS_HPP
#define KVM_HPP_TESTS_SUPPORT_SLOT_ACCESS_HPP

#include <kvm/kvm.hpp>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

/// @file
/// The VMM's own dirty marks of a slot, which programs only see merged with
/// KVM's log. This host's log has more pages than the guest wrote, so that only
/// the marks tell whether an access marked too little or too much.

namespace kvm_test {

/// An explicit instantiation may name private members.
template <class Tag, typename Tag::Member member>
struct Reach {
  friend typename Tag::Member reach(Tag) { return member; }
};
struct StateOfSlot {
  using Member = std::shared_ptr<kvm::detail::SlotState> kvm::MemorySlot::*;
  friend Member reach(StateOfSlot);
};
template struct Reach<StateOfSlot, &kvm::MemorySlot::slot_>;

struct SpaceOfMemory {
  using Member = kvm::detail::AddressSpace* kvm::GuestMemory::*;
  friend Member reach(SpaceOfMemory);
};
template struct Reach<SpaceOfMemory, &kvm::GuestMemory::space_>;

/// What its readers meet at.
inline kvm::detail::AddressSpace& space_of(const kvm::GuestMemory& memory) {
  return *(memory.*reach(SpaceOfMemory{}));
}

/// What everything that names the slot shares.
inline std::shared_ptr<kvm::detail::SlotState> state_of(const kvm::MemorySlot& slot) {
  return slot.*reach(StateOfSlot{});
}

struct StateOfHandle {
  using Member = std::shared_ptr<kvm::detail::VmState> kvm::MemorySlot::*;
  friend Member reach(StateOfHandle);
};
template struct Reach<StateOfHandle, &kvm::MemorySlot::state_>;

/// The registry of its VM, and that VM's other state.
inline kvm::detail::VmState& registry_of(const kvm::MemorySlot& slot) {
  return *(slot.*reach(StateOfHandle{}));
}

struct MutexOfRegistry {
  using Member = std::mutex kvm::detail::SlotRegistry::*;
  friend Member reach(MutexOfRegistry);
};
template struct Reach<MutexOfRegistry, &kvm::detail::SlotRegistry::mutex_>;

struct IdsOfState {
  using Member = std::shared_ptr<kvm::detail::SlotIds> kvm::detail::SlotState::*;
  friend Member reach(IdsOfState);
};
template struct Reach<IdsOfState, &kvm::detail::SlotState::ids_>;

/// The pool that its number is from.
inline std::shared_ptr<kvm::detail::SlotIds> ids_of(const kvm::MemorySlot& slot) {
  return (*state_of(slot)).*reach(IdsOfState{});
}

struct SubscriberOfHandle {
  using Member = std::shared_ptr<kvm::detail::DirtySubscriber> kvm::DirtySubscription::*;
  friend Member reach(SubscriberOfHandle);
};
template struct Reach<SubscriberOfHandle, &kvm::DirtySubscription::subscriber_>;

/// What the collector knows of a subscription.
inline std::shared_ptr<kvm::detail::DirtySubscriber> subscriber_of(
    const kvm::DirtySubscription& subscription) {
  return subscription.*reach(SubscriberOfHandle{});
}

/// Takes the marks: the pages that are marked, in order.
inline std::vector<std::uint64_t> take_marks(const kvm::MemorySlot& slot) {
  std::vector<std::uint64_t> pages;
  const auto state = state_of(slot);
  if (const kvm::detail::DirtyWords* const marks = state->marks()) {
    std::vector<std::uint64_t> words(marks->words());
    (void)marks->take(words.data());
    for (std::uint64_t page = 0; page < words.size() * 64; ++page) {
      if ((words[page / 64] >> page % 64 & 1) != 0) {
        pages.push_back(page);
      }
    }
  }
  return pages;
}

}  // namespace kvm_test

#endif
