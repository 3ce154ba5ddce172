# The updater looks for announcements without having fenced the readers.
set(header detail/address_space.hpp)
set(old [[
    if (asymmetric_) {
      heavy_fence();
    } else {
      full_fence();
    }
  }
]])
set(new [[
  }
]])
