set(header memory/guest_memory.hpp)
set(old [[          detail::store<T>(record.host + offset, value);
          detail::light_fence();]])
set(new [[          const T late = value;
          const auto store_late = [&] { detail::store<T>(record.host + offset, late); };
          struct Late {
            decltype(store_late)& store;
            ~Late() { store(); }
          } const store_at_the_end{store_late};]])
