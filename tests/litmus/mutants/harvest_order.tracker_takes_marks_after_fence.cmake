set(header detail/dirty_collector.hpp)
set(old [[      if (const DirtyWords* marks = tracked->slot->marks()) {
        tracked->any |= marks->take(tracked->staging.data());
      }
    }
    if (rings_) {]])
set(new [[      (void)tracked;
    }
    if (rings_) {]])
set(second_old [[    if (logs && manual) {
      if (auto cleared = clear_logs(); !cleared) {]])
set(second_new [[    for (const auto& tracked : slots_) {
      if (const DirtyWords* marks = tracked->slot->marks()) {
        tracked->any |= marks->take(tracked->staging.data());
      }
    }
    if (logs && manual) {
      if (auto cleared = clear_logs(); !cleared) {]])
