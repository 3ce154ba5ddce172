set(header memory/gfn_to_hva_cache.hpp)
set(old [[    return line.published->load(std::memory_order_acquire) == known;]])
set(new [[    return known != detail::AddressSpace::no_generation;]])
