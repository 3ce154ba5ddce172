// SPDX-License-Identifier: MIT
// kvm-info, as a user runs it. What it says is compared with what this test
// asks KVM itself, with nothing but ioctl().
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "program.hpp"

namespace {

using Json = nlohmann::json;

constexpr unsigned long get_api_version = 0xae00;
constexpr unsigned long create_vm = 0xae01;
constexpr unsigned long check_extension = 0xae03;
constexpr unsigned long get_vcpu_mmap_size = 0xae04;

class KvmInfo : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_KVM(EXAMPLE_KVM_INFO);
    system_ = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
    ASSERT_GE(system_, 0);
  }
  void TearDown() override {
    if (vm_ >= 0) {
      ::close(vm_);
    }
    if (system_ >= 0) {
      ::close(system_);
    }
  }

  int ask_system(unsigned long request, unsigned long argument = 0) const {
    return ::ioctl(system_, request, argument);
  }
  int ask_vm(unsigned number) {
    if (vm_ < 0) {
      vm_ = ask_system(create_vm);
    }
    return ::ioctl(vm_, check_extension, static_cast<unsigned long>(number));
  }
  static Json report(const std::string& before = {}) {
    const auto outcome = program::run(EXAMPLE_KVM_INFO, "--json", before);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    Json json = Json::parse(outcome.out, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << outcome.out;
    return json;
  }

  int system_ = -1;
  int vm_ = -1;
};

/// A typed value belongs to a raw answer.
void expect_typed(const Json& answer, const std::string& name) {
  const int raw = answer.at("raw");
  const Json& value = answer.at("value");
  if (value.is_boolean()) {
    EXPECT_EQ(value.get<bool>(), raw > 0) << name;
  } else if (value.is_number()) {
    EXPECT_EQ(value.get<std::int64_t>(), raw) << name;
  } else {
    EXPECT_EQ(value.at("bits").get<std::int64_t>(), raw) << name;
    EXPECT_EQ(value.at("names").empty(), raw == 0) << name;
  }
}

TEST_F(KvmInfo, GivesEachCapabilityAsKvmDoes) {
  const Json json = report();
  EXPECT_EQ(json.at("api_version"), ask_system(get_api_version));
  std::set<unsigned> seen;
  for (const Json& capability : json.at("capabilities")) {
    const unsigned number = capability.at("number");
    const std::string name = capability.at("name");
    EXPECT_TRUE(seen.insert(number).second) << name;
    EXPECT_EQ(name.substr(0, 8), "KVM_CAP_");
    EXPECT_FALSE(capability.at("summary").get<std::string>().empty()) << name;
    EXPECT_NE(capability.at("topic"), "Other") << name;
    EXPECT_EQ(capability.at("system").at("raw"), ask_system(check_extension, number)) << name;
    EXPECT_EQ(capability.at("vm").at("raw"), ask_vm(number)) << name;
    EXPECT_EQ(capability.at("offered"), ask_vm(number) > 0) << name;
    expect_typed(capability.at("system"), name);
    expect_typed(capability.at("vm"), name);
  }
  EXPECT_GT(seen.size(), 40u);
  for (const Json& unknown : json.at("unknown_capabilities")) {
    EXPECT_TRUE(seen.insert(unknown.at("number").get<unsigned>()).second) << unknown;
  }
  // None is left out.
  for (unsigned number = 0; number < 512; ++number) {
    if (ask_vm(number) > 0) {
      EXPECT_TRUE(seen.contains(number)) << number;
    }
  }
}

TEST_F(KvmInfo, GivesLimits) {
  const Json limits = report().at("limits");
  EXPECT_EQ(limits.at("vcpu_mapping_bytes").at("value"), ask_system(get_vcpu_mmap_size));
  const auto expect = [&](const char* key, unsigned number) {
    const int raw = ask_vm(number);
    const Json& value = limits.at(key).at("value");
    if (raw > 0) {
      EXPECT_EQ(value, raw) << key;
    } else {
      EXPECT_TRUE(value.is_null()) << key;
    }
  };
  expect("recommended_vcpus", 9);
  expect("max_vcpus", 66);
  expect("max_vcpu_id", 128);
  expect("memory_slots", 10);
  expect("irq_routes", 25);
  expect("dirty_ring_bytes", 223);
}

TEST_F(KvmInfo, GivesModuleParametersAsTheKernelDoes) {
  const Json json = report();
  std::set<std::string> seen;
  const auto compare = [&](const Json& parameter) {
    const std::string module = parameter.at("module");
    const std::string name = parameter.at("name");
    EXPECT_TRUE(seen.insert(module + '.' + name).second) << name;
    std::ifstream file("/sys/module/" + module + "/parameters/" + name);
    std::string line;
    if (std::getline(file, line)) {
      EXPECT_EQ(parameter.at("value"), line) << name;
    } else if (parameter.at("value").is_null()) {
      EXPECT_TRUE(parameter.at("problem").is_string()) << name;
    }
  };
  const std::vector<std::string> polling = {"halt_poll_ns", "halt_poll_ns_grow",
                                            "halt_poll_ns_grow_start", "halt_poll_ns_shrink"};
  ASSERT_EQ(json.at("halt_poll_parameters").size(), polling.size());
  for (std::size_t i = 0; i < polling.size(); ++i) {
    EXPECT_EQ(json.at("halt_poll_parameters")[i].at("name"), polling[i]);
    compare(json.at("halt_poll_parameters")[i]);
  }
  for (const Json& parameter : json.at("parameters")) {
    compare(parameter);
  }
  const std::filesystem::path directory = "/sys/module/kvm/parameters";
  if (std::filesystem::exists(directory)) {
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      EXPECT_TRUE(seen.contains("kvm." + entry.path().filename().string())) << entry.path();
    }
  }
}

#if defined(__x86_64__)
struct Cpuid {
  std::uint32_t count;
  std::uint32_t padding;
  struct {
    std::uint32_t function, index, flags, eax, ebx, ecx, edx, padding[3];
  } entries[256];
};
struct MsrList {
  std::uint32_t count;
  std::uint32_t indices[4096];
};

TEST_F(KvmInfo, GivesCpuidAsKvmDoes) {
  constexpr unsigned long get_supported_cpuid = 0xc008ae05;
  Cpuid cpuid{};
  cpuid.count = 256;
  ASSERT_EQ(::ioctl(system_, get_supported_cpuid, &cpuid), 0);
  const Json json = report();
  const Json& list = json.at("x86").at("supported_cpuid");
  EXPECT_EQ(list.at("count"), cpuid.count);
  ASSERT_EQ(list.at("entries").size(), cpuid.count);
  for (std::size_t i = 0; i < cpuid.count; ++i) {
    const auto& expected = cpuid.entries[i];
    const Json& entry = list.at("entries")[i];
    EXPECT_EQ(entry.at("function"), expected.function);
    EXPECT_EQ(entry.at("index").is_null(), (expected.flags & 1) == 0);
    // Some words are of the CPU that was asked: these are not.
    if (expected.function == 0x40000001) {
      EXPECT_EQ(entry.at("eax"), expected.eax);
      EXPECT_EQ(json.at("x86").at("paravirtual_features").size(), entry.at("features").size());
      EXPECT_EQ((expected.eax & 8) != 0,
                entry.at("features").dump().find("\"clocksource2\"") != std::string::npos);
    }
  }
}

TEST_F(KvmInfo, CountsMsrsAsKvmDoes) {
  constexpr unsigned long get_msr_index_list = 0xc004ae02;
  constexpr unsigned long get_msr_feature_index_list = 0xc004ae0a;
  const Json json = report();
  const auto expect = [&](const char* key, unsigned long request) {
    MsrList list{};
    list.count = 4096;
    ASSERT_EQ(::ioctl(system_, request, &list), 0) << key;
    const Json& shown = json.at("x86").at(key);
    EXPECT_EQ(shown.at("count"), list.count) << key;
    ASSERT_EQ(shown.at("entries").size(), list.count) << key;
    for (std::size_t i = 0; i < list.count; ++i) {
      EXPECT_EQ(shown.at("entries")[i].at("index"), list.indices[i]) << key;
    }
  };
  expect("msrs", get_msr_index_list);
  expect("feature_msrs", get_msr_feature_index_list);
}
#endif

TEST_F(KvmInfo, FitsItsTablesIntoAHundredColumns) {
  const auto outcome = program::run(EXAMPLE_KVM_INFO);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  std::istringstream text(outcome.out);
  std::string line;
  while (std::getline(text, line)) {
    EXPECT_LE(line.size(), 100u) << line;
    EXPECT_FALSE(line.ends_with(' ')) << line;
  }
  for (const char* part : {"KVM on /dev/kvm\n", "\n  API version   12\n", "\nLimits\n",
                           "\n  NR_MEMSLOTS", "kvm.halt_poll_ns_grow_start "}) {
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part;
  }
}

TEST_F(KvmInfo, ShowsTheSystemsValuesWithoutAVm) {
  // Standard streams and KVM itself: no descriptor is left for a VM. Others may be inherited.
  const std::string limit = "exec 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-; ulimit -n 4 || exit 99; ";
  const Json json = report(limit);
  ASSERT_TRUE(json.is_object());
  EXPECT_NE(json.at("vm_problem").dump().find("KVM_CREATE_VM"), std::string::npos);
  EXPECT_EQ(json.at("limits").at("memory_slots").at("value"), ask_system(check_extension, 10));
  for (const Json& capability : json.at("capabilities")) {
    EXPECT_TRUE(capability.at("vm").is_null());
    EXPECT_EQ(capability.at("system").at("raw"),
              ask_system(check_extension, capability.at("number").get<unsigned>()));
  }
  const auto outcome = program::run(EXAMPLE_KVM_INFO, "", limit);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("\n  no VM         KVM_CREATE_VM"), std::string::npos);
}

TEST_F(KvmInfo, SaysThatItsOutputIsLost) {
  for (const char* where : {">/dev/full", ">&-", "--json >/dev/full"}) {
    const auto outcome = program::run(EXAMPLE_KVM_INFO, where);
    EXPECT_EQ(outcome.status, 1) << where;
    EXPECT_NE(outcome.err.find("kvm-info: standard output"), std::string::npos) << outcome.err;
  }
}

TEST(KvmInfoUsage, SaysWhyAFileIsNotKvm) {
  SKIP_WITHOUT_EXAMPLE(EXAMPLE_KVM_INFO);
  const auto expect = [](const char* path, const char* part) {
    const auto outcome = program::run(EXAMPLE_KVM_INFO, std::string("--device ") + path);
    EXPECT_EQ(outcome.status, 1) << path;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(outcome.err.substr(0, 10), "kvm-info: ") << outcome.err;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  };
  expect("/dev/null", "not a KVM device");
  expect("/no/such/file", "there is no such file");
  expect("/", "directory");
}

TEST(KvmInfoUsage, HelpsAndRefuses) {
  SKIP_WITHOUT_EXAMPLE(EXAMPLE_KVM_INFO);
  const auto help = program::run(EXAMPLE_KVM_INFO, "--help");
  EXPECT_EQ(help.status, 0);
  EXPECT_NE(help.out.find("--json"), std::string::npos);
  EXPECT_NE(help.out.find("--device"), std::string::npos);
  for (const char* arguments : {"--nope", "extra", "--device", "--json=maybe"}) {
    const auto outcome = program::run(EXAMPLE_KVM_INFO, arguments);
    EXPECT_EQ(outcome.status, 2) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
    EXPECT_FALSE(outcome.err.empty()) << arguments;
  }
}

}  // namespace
