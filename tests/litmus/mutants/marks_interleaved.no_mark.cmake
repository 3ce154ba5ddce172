set(header memory/guest_memory.hpp)
set(old [[          detail::DirtyWords::mark(record.marks, offset >> line.page_shift);]])
set(new [[]])
