# The slow way loads the table, and announces itself afterwards.
set(header detail/address_space.hpp)
set(old [[    reader.announced.store((generation & ~update_in_progress) | or_later,
                           std::memory_order_release);]])
set(new [[]])
