set(header memory/guest_memory.hpp)
set(old [[    const std::uint64_t known = line.generation;
    line.announced.store(known, std::memory_order_release);
    detail::light_fence();
    return line.published->load(std::memory_order_acquire) == known;]])
set(new [[    const std::uint64_t known = line.generation;
    const bool same = line.published->load(std::memory_order_acquire) == known;
    detail::light_fence();
    line.announced.store(known, std::memory_order_release);
    return same;]])
