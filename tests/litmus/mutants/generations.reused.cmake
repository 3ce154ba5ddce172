# A removal takes the generation back to what it was before the addition.
set(header detail/address_space.hpp)
set(old [[    next_generation_ = now + swaps * step_;]])
set(new [[    next_generation_ = now + (swaps == 2 ? -step_ : step_);]])
