set(header memory/dirty_log.hpp)
set(old [=[        if (send_clear(snapshot_, first, end - first) < 0) [[unlikely]] {]=])
set(new [=[        if (!hand_over(gfn, first, end, taken, f)) {
          break;
        }
        if (send_clear(snapshot_, first, end - first) < 0) {]=])
