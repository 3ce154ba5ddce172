set(header detail/dirty_collector.hpp)
set(old [[    if (logs && manual) {
      if (auto cleared = clear_logs(); !cleared) {]])
set(new [[    merge();
    if (logs && manual) {
      if (auto cleared = clear_logs(); !cleared) {]])
