# The other slots are told when the slot goes, and not again when the last write through it is over.
set(header detail/dirty_collector.hpp)
set(old [[    state_->settle_departed();]])
set(new [[]])
