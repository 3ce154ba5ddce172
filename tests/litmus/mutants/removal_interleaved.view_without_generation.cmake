set(header memory/guest_memory.hpp)
set(old [[    return line.published->load(std::memory_order_acquire) == known;]])
set(new [[    return known != detail::AddressSpace::no_generation;]])
