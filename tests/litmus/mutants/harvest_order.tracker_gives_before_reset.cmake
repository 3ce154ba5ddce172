set(header detail/dirty_collector.hpp)
set(old [[    const int error_number = rings.reset(*state_);]])
set(new [[    merge();
    const int error_number = rings.reset(*state_);]])
