set(header detail/address_space.hpp)
set(old [[    reader.announced.store(generation & ~update_in_progress, std::memory_order_release);]])
set(new [[    (void)reader;]])
