set(header detail/dirty_collector.hpp)
set(old [[      heavy_fence();
    } else {]])
set(new [[    } else {]])
