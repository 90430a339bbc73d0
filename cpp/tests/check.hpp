// Assertions and main() for a C++ test program that is one source file.
//   TEST(sums_are_exact) { CHECK(a < b); CHECK_EQUAL(sum(1, 2), 3); }
// A failed check is printed and counted, and the test goes on. The program prints
// "N passed, N failed" (checks) and returns 1 if any failed. Arguments choose tests: `text` those
// whose name contains it, `-text` those whose name does not.
#pragma once

#include <algorithm>
#include <atomic>
#include <concepts>
#include <cstdio>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gradstep::test {

struct Test {
  std::string_view name;
  void (*body)();
};

inline std::vector<Test> tests;
inline std::atomic<long> passed{0}, failed{0};

struct Registration {
  Registration(std::string_view name, void (*body)()) { tests.push_back({name, body}); }
};

template <class T>
std::string shown(const T& value) {
  if constexpr (requires(std::ostream& out) { out << value; }) {
    std::ostringstream out;
    out.precision(17);
    out << value;
    return out.str();
  } else {
    return "(cannot be printed)";
  }
}

template <class T>
concept Number = std::integral<T> && requires(T x) { std::cmp_equal(x, x); } &&
                 !std::same_as<T, bool> && !std::same_as<T, char>;

// Compares integers of different signedness by value.
template <class A, class B>
bool equal(const A& a, const B& b) {
  if constexpr (Number<A> && Number<B>) {
    return std::cmp_equal(a, b);
  } else {
    return a == b;
  }
}

inline bool check(bool good, const char* file, int line, const char* text) {
  ++(good ? passed : failed);
  if (!good) std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, text);
  return good;
}

template <class A, class B>
bool check_equal(const A& a, const B& b, const char* file, int line, const char* text) {
  const bool good = check(equal(a, b), file, line, text);
  if (!good) std::fprintf(stderr, "  %s != %s\n", shown(a).c_str(), shown(b).c_str());
  return good;
}

inline bool chosen(std::string_view name, const std::vector<std::string_view>& arguments) {
  return std::all_of(arguments.begin(), arguments.end(), [name](std::string_view text) {
    const bool excluded = text.starts_with('-');
    return (name.find(text.substr(excluded)) == name.npos) == excluded;
  });
}

}  // namespace gradstep::test

#define CHECK(condition) \
  ::gradstep::test::check(static_cast<bool>(condition), __FILE__, __LINE__, #condition)
#define CHECK_EQUAL(a, b) ::gradstep::test::check_equal(a, b, __FILE__, __LINE__, #a " == " #b)
#define TEST(name)                                                               \
  static void name();                                                            \
  static const ::gradstep::test::Registration name##_registration_{#name, name}; \
  static void name()

int main(int count, char** arguments) {
  using namespace gradstep::test;
  for (const Test& test : tests) {
    if (!chosen(test.name, {arguments + 1, arguments + count})) continue;
    const long before = failed;
    test.body();
    if (failed != before) std::fprintf(stderr, "in %s\n", std::string(test.name).c_str());
  }
  std::printf("%ld passed, %ld failed\n", passed.load(), failed.load());
  return failed == 0 && passed > 0 ? 0 : 1;
}
