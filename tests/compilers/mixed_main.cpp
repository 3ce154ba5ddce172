// SPDX-License-Identifier: MIT
// Both units must see the same library and get the same from it. Prints what differed and returns
// 1, or prints both units' settings and whether a guest ran.
#include "mixed.hpp"

#include <cstdio>
#include <string>

namespace {

int failures = 0;

void same(const char* what, const std::string& a, const std::string& b) {
  if (a == b) return;
  std::printf("%s differs: \"%s\" and \"%s\"\n", what, a.c_str(), b.c_str());
  ++failures;
}

void is(const char* what, const std::string& got, const std::string& wanted) {
  if (got == wanted) return;
  std::printf("%s is \"%s\" and not \"%s\"\n", what, got.c_str(), wanted.c_str());
  ++failures;
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IONBF, 0);  // What differs can make the rest crash.
  const mixed::Report a = mixed::a::report();
  const mixed::Report b = mixed::b::report();
  if (a.types.size() != b.types.size() || a.types.empty()) {
    std::puts("the units list different types");
    return 1;
  }
  for (std::size_t i = 0; i < a.types.size(); ++i) {
    same(a.types[i].name,
         std::to_string(a.types[i].size) + ", " + std::to_string(a.types[i].alignment),
         std::to_string(b.types[i].size) + ", " + std::to_string(b.types[i].alignment));
  }
  same("an error's message", a.open_error, b.open_error);
  is("a dirty bitmap", a.bitmap, "3+1 63+2 128+1 ");
  is("a dirty bitmap", b.bitmap, "3+1 63+2 128+1 ");
  same("why no guest ran", a.no_guest, b.no_guest);
  if (a.no_guest.empty()) {
    is("what the guest wrote", a.guest, "ok");
    is("what the guest wrote", b.guest, "ok");
  }
  if (a.exceptions == b.exceptions) {
    is("what one unit made", mixed::b::use(mixed::a::make()), "12288 3+1 63+2 128+1 ");
    is("what one unit made", mixed::a::use(mixed::b::make()), "12288 3+1 63+2 128+1 ");
  }
  std::printf("%s | %s; %s\n", a.settings.c_str(), b.settings.c_str(),
              a.no_guest.empty() ? "guests ran" : ("no guest: " + a.no_guest).c_str());
  return failures == 0 ? 0 : 1;
}
