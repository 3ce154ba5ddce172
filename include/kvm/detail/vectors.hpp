// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_DETAIL_VECTORS_HPP
#define KVM_HPP_DETAIL_VECTORS_HPP

#include <kvm/detail/config.hpp>

#include <cstddef>
#include <utility>
#include <vector>

/// @file
/// What cold code does with vectors, as loops: each use of an algorithm of the
/// standard library is a dozen functions more in every unit that includes this.

KVM_HPP_BEGIN
namespace detail {

/// Reserves at least `size`, and not anew for each element that is added.
template <class T>
void make_room(std::vector<T>& vector, std::size_t size) {
  if (const std::size_t capacity = vector.capacity(); capacity < size) {
    vector.reserve(size < 2 * capacity ? 2 * capacity : size);
  }
}

/// Takes out the elements that `gone` is true of; the others keep their order.
/// @return how many there were
template <class T, class F>
std::size_t remove_if(std::vector<T>& vector, F gone) {
  std::size_t kept = 0;
  for (T& element : vector) {
    if (!gone(element)) {
      T& place = vector[kept++];
      if (&place != &element) {
        place = std::move(element);
      }
    }
  }
  const std::size_t removed = vector.size() - kept;
  while (vector.size() > kept) {
    vector.pop_back();
  }
  return removed;
}

/// Takes out the elements that are equal to `value`.
template <class T>
void remove(std::vector<T>& vector, const T& value) {
  remove_if(vector, [&value](const T& element) { return element == value; });
}

}  // namespace detail
KVM_HPP_END

#endif
