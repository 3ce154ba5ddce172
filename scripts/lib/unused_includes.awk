# SPDX-License-Identifier: MIT
# Reads C++ headers; prints each standard header that one includes without a word of it being there.
# What a header gives is known here by the names that the library may want of it.
BEGIN {
  gives["algorithm"] = "std::(ranges::)?(min|max|sort|copy|fill|find|all_of|any_of|none_of|lower_bound|upper_bound|equal|clamp|remove|partition|max_element|min_element|rotate|swap_ranges|count|for_each|stable|replace|unique|reverse|lexicographical|generate|transform|erase|merge|is_sorted|binary_search|adjacent|search|move_backward|copy_backward|iter_swap|is_)"
  gives["array"] = "std::(array|to_array)"
  gives["atomic"] = "std::(atomic|memory_order)"
  gives["bit"] = "std::(bit_|popcount|count[lr]_|has_single|endian|rot|byteswap)"
  gives["cerrno"] = "[^a-z_]errno|[^A-Za-z0-9_]E[A-Z0-9][A-Z0-9]+[^A-Za-z0-9_]"
  gives["charconv"] = "std::(to_chars|from_chars)"
  gives["chrono"] = "std::chrono|_literals"
  gives["climits"] = "[A-Z]+_(MAX|MIN|BIT)"
  gives["compare"] = "<=>|std::(strong|weak|partial)_ordering"
  gives["concepts"] = "std::(same_as|derived_from|convertible_to|integral|signed_integral|unsigned_integral|floating_point|invocable|constructible_from|move_constructible|copy_constructible|destructible|predicate|regular|semiregular|movable|copyable|equality_comparable|totally_ordered|default_initializable|assignable_from|swappable)"
  gives["csignal"] = "sig|SIG"
  gives["cstddef"] = "size_t|std::byte|nullptr_t|ptrdiff_t|offsetof|max_align_t"
  gives["cstdint"] = "u?int(_least|_fast|max|ptr)?[0-9]*_t|U?INT[0-9]+_"
  gives["cstdio"] = "printf|FILE|fopen|fwrite|fread|fclose|fputs|fgets|stderr|std::rename|std::remove|std::perror"
  gives["cstdlib"] = "std::(abort|exit|getenv|malloc|free|calloc|aligned_alloc|strto|abs|atoi|_Exit|terminate|quick_exit)"
  gives["cstring"] = "std::(mem|str)"
  gives["ctime"] = "timespec|std::time|clock|CLOCK_|time_t"
  gives["functional"] = "std::(function|hash|less|greater|invoke|bind|ref|cref|plus|identity|equal_to|not_fn|reference_wrapper)"
  gives["iterator"] = "std::(back_inserter|iterator|next|prev|distance|advance|input_iterator|forward_iterator|random_access|default_sentinel|size|data|begin|end|inserter|contiguous_iterator|reverse_iterator|make_move_iterator|iter_|indirect|sentinel)"
  gives["map"] = "std::(map|multimap)"
  gives["memory"] = "std::(unique_ptr|shared_ptr|weak_ptr|make_unique|make_shared|addressof|construct_at|destroy_at|uninitialized|enable_shared|allocator|pointer_traits|to_address|assume_aligned|destroy|static_pointer_cast)"
  gives["mutex"] = "std::(mutex|lock_guard|unique_lock|scoped_lock|recursive_mutex|once_flag|call_once|try_to_lock|defer_lock|adopt_lock)|[.]lock\\(\\)"
  gives["new"] = "std::(nothrow|bad_alloc|align_val_t|launder|hardware_)|new *\\("
  gives["optional"] = "std::(optional|nullopt|make_optional)"
  gives["span"] = "std::(span|as_bytes|as_writable_bytes|dynamic_extent)"
  gives["string"] = "std::(string|to_string|getline|stoi|stoul)([^_a-z]|$)"
  gives["string_view"] = "std::string_view|sv[^a-z]"
  gives["system_error"] = "std::(system_error|error_code|errc|generic_category|system_category|error_condition|error_category)"
  gives["type_traits"] = "std::(is_|remove_|add_|conditional|enable_if|decay|underlying|make_(un)?signed|integral_constant|true_type|false_type|type_identity|invoke_result|void_t|common_type|has_|bool_constant|conjunction|disjunction|negation|extent|aligned_storage|alignment_of|rank)"
  gives["utility"] = "std::(move|forward|pair|exchange|swap|declval|in_place|index_sequence|make_index_sequence|integer_sequence|as_const|cmp_|in_range|to_underlying|unreachable|tuple_size|make_pair|piecewise|hash)"
  gives["vector"] = "std::vector"
}
function flush(   name) {
  for (name in included) {
    if (!(name in gives)) print "  " file ": <" name ">, which " ARGV[0] " does not know"
    else if (text !~ gives[name]) print "  " file ": <" name ">"
  }
  delete included
  text = ""
}
FNR == 1 { flush(); file = FILENAME; sub(/.*include\//, "", file) }
/^ *#include <[a-z_]+>/ { name = $0; sub(/.*</, "", name); sub(/>.*/, "", name); included[name] = 1; next }
/^ *#include/ { next }
{ line = $0; sub(/(^|[^:])\/\/.*/, "", line); text = text line "\n" }
END { flush() }
