#pragma once

namespace gradstep::test {

struct Report {
  void (*check)(bool good, const char* name);
  __attribute__((always_inline)) void operator()(bool good, const char* name) const {
    check(good, name);
  }
};

typedef void (*SimdCases)(const Report&);

}  // namespace gradstep::test
