// SPDX-License-Identifier: MIT
#ifndef KVM_HPP_UAPI_HPP
#define KVM_HPP_UAPI_HPP

#include <kvm/detail/kernel_header.hpp>
#if !KVM_HPP_REFUSED

/// @file
/// All facts of KVM's interface: request codes, capability numbers, exit
/// reasons, constants and layouts. No behaviour.

#include <kvm/uapi/capabilities.hpp>
#include <kvm/uapi/constants.hpp>
#include <kvm/uapi/exit_reasons.hpp>
#include <kvm/uapi/request.hpp>
#include <kvm/uapi/requests.hpp>
#include <kvm/uapi/run.hpp>
#include <kvm/uapi/structs.hpp>

#endif  // !KVM_HPP_REFUSED
#endif
