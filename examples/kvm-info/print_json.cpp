// SPDX-License-Identifier: MIT
// The report as JSON.
#include <nlohmann/json.hpp>

#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "names.hpp"
#include "print.hpp"

namespace kvm_info {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}
Json or_null(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

template <class Range, class F>
Json array(const Range& range, F&& to_json) {
  Json out = Json::array();
  for (const auto& element : range) {
    out.push_back(to_json(element));
  }
  return out;
}

Json json(const Value& value) {
  return std::visit(
      []<class T>(const T& typed) -> Json {
        if constexpr (std::is_same_v<T, FlagSet>) {
          return {{"bits", typed.bits}, {"names", typed.names}};
        } else {
          return typed;
        }
      },
      value);
}

Json json(const std::optional<Answer>& answer) {
  return answer ? Json{{"raw", answer->raw}, {"value", json(answer->value)}} : Json(nullptr);
}

Json json(const Capability& capability) {
  return {{"number", capability.number},
          {"name", capability.name},
          {"summary", capability.summary},
          {"topic", topic(capability.name)},
          {"offered", capability.offered()},
          {"system", json(capability.system)},
          {"vm", json(capability.vm)},
          {"enabled_on", or_null(capability.enabled_on)},
          {"enabling_asks_for", or_null(capability.constraint)}};
}

Json json(const Kind& kind) {
  return {{"name", kind.name},
          {"number", kind.number},
          {"offered", kind.offered},
          {"meaning", kind.meaning}};
}

Json json(const Limit& limit) {
  return {
      {"value", or_null(limit.value)}, {"unit", or_null(limit.unit)}, {"meaning", limit.meaning}};
}

Json json(const Parameter& parameter) {
  return {{"module", parameter.module},
          {"name", parameter.name},
          {"value", or_null(parameter.text)},
          {"problem", or_null(parameter.problem)},
          {"meaning", or_null(parameter.meaning)}};
}

Json json(const CpuidEntry& entry) {
  return {{"function", entry.function},
          {"index", or_null(entry.index)},
          {"eax", entry.eax},
          {"ebx", entry.ebx},
          {"ecx", entry.ecx},
          {"edx", entry.edx},
          {"features", feature_names(entry)}};
}

Json json(const Msr& msr) { return {{"index", msr.index}, {"value", or_null(msr.value)}}; }

template <class T>
Json json(const List<T>& list) {
  return {{"count", list.entries.size()},
          {"entries", array(list.entries, [](const T& entry) { return json(entry); })},
          {"problem", or_null(list.problem)}};
}

Json json(const X86& x86) {
  const Processor cpu = processor(x86.supported_cpuid.entries);
  return {{"processor",
           {{"name", cpu.name},
            {"vendor", cpu.vendor},
            {"family", cpu.family},
            {"model", cpu.model},
            {"stepping", cpu.stepping},
            {"physical_bits", cpu.physical_bits},
            {"linear_bits", cpu.linear_bits}}},
          {"paravirtual_features",
           array(x86.paravirtual,
                 [](const Feature& feature) {
                   return Json{{"name", feature.name}, {"meaning", feature.meaning}};
                 })},
          {"guest_xcr0", or_null(x86.guest_xcr0)},
          {"guest_state_components", state_component_names(x86.guest_xcr0.value_or(0))},
          {"machine_check", or_null(x86.machine_check)},
          {"machine_check_features", machine_check_names(x86.machine_check.value_or(0))},
          {"supported_cpuid", json(x86.supported_cpuid)},
          {"emulated_cpuid", json(x86.emulated_cpuid)},
          {"hyperv_cpuid", json(x86.hyperv_cpuid)},
          {"msrs", json(x86.msrs)},
          {"feature_msrs", json(x86.feature_msrs)}};
}

}  // namespace

std::string to_json(const Report& report) {
  const auto each = [](const auto& element) { return json(element); };
  Json limits = Json::object();
  for (const Limit& limit : report.limits) {
    limits[limit.key] = json(limit);
  }
  const Json out = {
      {"device", report.device},
      {"api_version", report.api_version},
      {"kernel", report.kernel},
      {"machine", report.machine},
      {"backends", report.backends},
      {"vm_problem", or_null(report.vm_problem)},
      {"limits", limits},
      {"vm_types", array(report.vm_types, each)},
      {"devices", array(report.devices, each)},
      {"capabilities", array(report.capabilities, each)},
      {"unknown_capabilities",
       array(report.unknown_capabilities,
             [](const UnknownCapability& unknown) {
               return Json{{"number", unknown.number}, {"raw", unknown.raw}};
             })},
      {"x86", report.x86 ? json(*report.x86) : Json(nullptr)},
      {"halt_poll_parameters", array(report.halt_poll, each)},
      {"parameters", array(report.parameters, each)},
  };
  // A file name or a parameter could hold anything.
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
}

}  // namespace kvm_info
