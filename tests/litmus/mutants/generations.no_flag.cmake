# The window of an update is not flagged.
set(header detail/address_space.hpp)
set(old [[    published_->generation.store(now | update_in_progress, std::memory_order_seq_cst);]])
set(new [[    published_->generation.store(now, std::memory_order_seq_cst);]])
