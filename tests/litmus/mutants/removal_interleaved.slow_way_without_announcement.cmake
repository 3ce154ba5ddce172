set(header detail/address_space.hpp)
set(old [[      reader.announced.store(table->since, std::memory_order_release);]])
set(new [[      reader.announced.store(0, std::memory_order_release);]])
