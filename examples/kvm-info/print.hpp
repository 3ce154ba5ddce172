// SPDX-License-Identifier: MIT
#ifndef KVM_INFO_PRINT_HPP
#define KVM_INFO_PRINT_HPP

#include <string>

#include "report.hpp"

namespace kvm_info {

/// The report for people: tables of at most 100 columns.
std::string to_text(const Report& report);

/// The report for programs: one JSON object.
std::string to_json(const Report& report);

}  // namespace kvm_info

#endif
