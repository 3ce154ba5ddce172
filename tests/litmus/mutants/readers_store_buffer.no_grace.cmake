# The updater does not wait for accesses in flight.
set(header detail/address_space.hpp)
set(old [[    for (unsigned turn = 0; !passed(generation); ++turn) {]])
set(new [[    for (unsigned turn = 0; false && !passed(generation); ++turn) {]])
