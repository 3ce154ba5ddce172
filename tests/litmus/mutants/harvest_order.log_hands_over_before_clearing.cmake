set(header memory/dirty_log.hpp)
set(old [=[        if (send_clear(log, first, end - first) < 0) [[unlikely]] {]=])
set(new [=[        const DirtyBitmap was = log;
        if (!hand_over(gfn, first, end, taken, f)) {
          break;
        }
        if (send_clear(was, first, end - first) < 0) {]=])
