# The window of an update is not flagged.
set(header detail/address_space.hpp)
set(old [[generation.store(generation() | update_in_progress, std::memory_order_seq_cst);]])
set(new [[generation.store(generation(), std::memory_order_seq_cst);]])
