set(header detail/memory_reader.hpp)
set(old [[                  copy_to_guest(record.host + offset, from, size);
                  mark_part(table, record, offset, size, asymmetric);  // Store, then mark.]])
set(new [[                  mark_part(table, record, offset, size, asymmetric);
                  copy_to_guest(record.host + offset, from, size);]])
