set(header memory/gfn_to_hva_cache.hpp)
set(old [[            detail::store<T>(at, value);
            detail::light_fence();]])
set(new [[            const auto store_late = [&] { detail::store<T>(at, value); };
            struct Late {
              decltype(store_late)& store;
              ~Late() { store(); }
            } const store_at_the_end{store_late};]])
