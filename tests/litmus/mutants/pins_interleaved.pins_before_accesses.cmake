set(header detail/slot_registry.hpp)
set(old [[    return !find_space(slot.id.address_space)->table.passed(until, slot.since) || slot.pinned();]])
set(new [[    return slot.pinned() || !find_space(slot.id.address_space)->table.passed(until, slot.since);]])
