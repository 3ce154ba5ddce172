set(header memory/guest_memory.hpp)
set(old [[    line.announced.store(known, std::memory_order_release);]])
set(new [[    (void)known;]])
