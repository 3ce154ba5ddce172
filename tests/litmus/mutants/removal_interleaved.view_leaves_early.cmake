set(header memory/guest_memory.hpp)
set(old [[          out = detail::load_any<T>(record.host + offset);
          detail::AddressSpace::leave(line);]])
set(new [[          detail::AddressSpace::leave(line);
          out = detail::load_any<T>(record.host + offset);]])
