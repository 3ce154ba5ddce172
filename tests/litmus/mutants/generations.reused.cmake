# A removal takes the generation back to what it was before the addition.
set(header detail/address_space.hpp)
set(old [[ + swaps * step_;]])
set(new [[ + (swaps == 2 ? -step_ : step_);]])
