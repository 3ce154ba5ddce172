set(header memory/dirty_log.hpp)
set(old [[      fence();
    }
    // After the marks]])
set(new [[    }
    // After the marks]])
