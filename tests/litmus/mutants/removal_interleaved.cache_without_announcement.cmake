set(header memory/gfn_to_hva_cache.hpp)
set(old [[    line.announced.store(known, std::memory_order_release);]])
set(new [[    (void)known;]])
