// SPDX-License-Identifier: MIT
// Module parameters: how their texts are read, against a made-up /sys/module
// and against this host's.
#include <kvm/module_parameters.hpp>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include <grp.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using kvm::detail::parse_parameter;
using kvm::detail::try_parameter;

TEST(ModuleParameters, BoolsAreLettersOrDigits) {
  EXPECT_EQ(parse_parameter<bool>("Y"), true);
  EXPECT_EQ(parse_parameter<bool>("N"), false);
  EXPECT_EQ(parse_parameter<bool>("1"), true);
  EXPECT_EQ(parse_parameter<bool>("0"), false);
  for (const char* text : {"", "y", "YES", "2", "-1", "auto", " Y"}) {
    EXPECT_EQ(parse_parameter<bool>(text), std::nullopt) << text;
  }
}

TEST(ModuleParameters, NumbersAreWholeAndFit) {
  EXPECT_EQ(parse_parameter<std::uint32_t>("200000"), 200000u);
  EXPECT_EQ(parse_parameter<std::uint32_t>("4294967295"), 0xffffffffu);
  EXPECT_EQ(parse_parameter<int>("-1"), -1);
  EXPECT_EQ(parse_parameter<std::uint64_t>("0x1f"), 0x1fu);
  EXPECT_EQ(parse_parameter<std::uint32_t>("4294967296"), std::nullopt);
  for (const char* text : {"", "-1", "+1", "12x", " 12", "12 ", "0x", "0x-1", "Y"}) {
    EXPECT_EQ(parse_parameter<std::uint32_t>(text), std::nullopt) << text;
  }
  EXPECT_EQ(parse_parameter<int>("0x-1"), std::nullopt);
}

TEST(ModuleParameters, TextIsItself) {
  EXPECT_EQ(parse_parameter<std::string>(""), "");
  EXPECT_EQ(parse_parameter<std::string>(" a b "), " a b ");
}

/// A directory like /sys/module with one module that has some parameters.
class MadeUpModules : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "kvm-hpp-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    std::filesystem::create_directories(root_ / "kvm_made_up" / "parameters" / "a_folder");
    put("flag", "Y\n");
    put("number", "10000\n");
    put("words", "two words\n");
    put("empty", "");
    put("long", std::string(4000, 'x') + '\n');
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void put(const char* name, const std::string& content) {
    std::ofstream(root_ / "kvm_made_up" / "parameters" / name) << content;
  }
  template <class T>
  kvm::Result<T> read(std::string_view name, std::string_view module = "kvm_made_up") {
    return try_parameter<T>(root_.string() + "/", name, module);
  }
  template <class T>
  int error(std::string_view name, std::string_view module = "kvm_made_up") {
    const auto result = read<T>(name, module);
    return result ? 0 : result.error().error_number();
  }

  std::filesystem::path root_;
};

/// Asks for an errno in a forked child that has no rights, since root may read
/// every file.
template <class F>
int as_nobody(F&& ask) {
  constexpr int failed = 255;
  const pid_t child = ::fork();
  if (child == 0) {
    constexpr unsigned nobody = 65534;
    if (::geteuid() == 0 && (::setgroups(0, nullptr) != 0 || ::setgid(nobody) != 0 ||
                             ::setuid(nobody) != 0 || ::geteuid() != nobody)) {
      ::_exit(failed);
    }
    ::_exit(ask());
  }
  int status = 0;
  return child > 0 && ::waitpid(child, &status, 0) == child && WIFEXITED(status)
             ? WEXITSTATUS(status)
             : failed;
}

TEST_F(MadeUpModules, AreReadInTheTypeAskedFor) {
  EXPECT_EQ(*read<bool>("flag"), true);
  EXPECT_EQ(*read<std::string>("flag"), "Y");
  EXPECT_EQ(*read<std::uint32_t>("number"), 10000u);
  EXPECT_EQ(*read<std::string>("words"), "two words");
  EXPECT_EQ(*read<std::string>("empty"), "");
  EXPECT_EQ(*read<std::string>("long"), std::string(4000, 'x'));
}

TEST_F(MadeUpModules, SayWhatIsWrong) {
  EXPECT_EQ(error<bool>("number"), EINVAL);
  EXPECT_EQ(error<std::uint8_t>("number"), EINVAL);
  EXPECT_EQ(error<int>("empty"), EINVAL);
  EXPECT_EQ(error<std::string>("absent"), ENOENT);
  EXPECT_EQ(error<std::string>("flag", "kvm_absent"), ENOENT);
  EXPECT_EQ(error<std::string>("a_folder"), EISDIR);

  const auto wrong = read<int>("words");
  ASSERT_FALSE(wrong);
  const std::string_view what = wrong.error().what();
  for (const char* part : {"module=kvm_made_up", "name=words", "\"two words\""}) {
    EXPECT_NE(what.find(part), what.npos) << what;
  }
}

TEST_F(MadeUpModules, NamesLeadNowhereElse) {
  put("../../outside", "secret\n");
  for (const std::string_view name :
       {std::string_view("../../outside"), std::string_view(""), std::string_view("."),
        std::string_view(".."), std::string_view("a_folder/"), std::string_view("flag\0x", 6)}) {
    EXPECT_EQ(error<std::string>(name), EINVAL) << name;
    EXPECT_EQ(error<std::string>("flag", name), EINVAL) << name;
  }
}

TEST_F(MadeUpModules, ThatMayNotBeReadSaySo) {
  const auto allow = [](const std::filesystem::path& path, std::filesystem::perms perms) {
    std::filesystem::permissions(path, perms);
  };
  using std::filesystem::perms;
  allow(root_, perms(0755));
  allow(root_ / "kvm_made_up" / "parameters" / "flag", perms::none);
  EXPECT_EQ(as_nobody([&] { return error<bool>("number"); }), EINVAL) << "the folder is closed";
  EXPECT_EQ(as_nobody([&] { return error<bool>("flag"); }), EACCES);
}

TEST(ModuleParameters, AreThoseOfThisHost) {
  const std::filesystem::path directory = "/sys/module/kvm/parameters";
  std::error_code ignored;
  if (!std::filesystem::exists(directory, ignored)) {
    GTEST_SKIP() << directory << " is missing: the module kvm is not loaded";
  }
  const auto expected = [&](const char* name) -> std::optional<std::uint32_t> {
    std::uint32_t value = 0;
    return std::ifstream(directory / name) >> value ? std::optional(value) : std::nullopt;
  };
  const kvm::HaltPollParameters polling = kvm::halt_poll_parameters();
  EXPECT_EQ(polling.max_ns, expected("halt_poll_ns"));
  EXPECT_EQ(polling.grow, expected("halt_poll_ns_grow"));
  EXPECT_EQ(polling.grow_start_ns, expected("halt_poll_ns_grow_start"));
  EXPECT_EQ(polling.shrink, expected("halt_poll_ns_shrink"));

  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::ifstream file(entry.path());
    std::string line;
    if (!std::getline(file, line)) {
      continue;
    }
    const auto value = kvm::try_module_parameter(entry.path().filename().string());
    ASSERT_TRUE(value) << entry.path();
    EXPECT_EQ(*value, line) << entry.path();
  }
}

TEST(ModuleParameters, ThatDoNotExistAreNoException) {
  const auto result = kvm::try_module_parameter<bool>("no_such_parameter");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().error_number(), ENOENT);
}

}  // namespace
