set(header memory/guest_memory.hpp)
set(old [[          const T value = detail::load<T>(record.host + offset);
          detail::AddressSpace::leave(line);]])
set(new [[          detail::AddressSpace::leave(line);
          const T value = detail::load<T>(record.host + offset);]])
