#include <string>

#include "engine/dispatch.hpp"
#include "tests/check.hpp"
#include "tests/isa/simd_cases.hpp"

using namespace gradstep;

namespace gradstep::baseline {
extern const test::SimdCases kSimdCases;
}
#if defined(GRADSTEP_HAS_AVX)
namespace gradstep::avx2 {
extern const test::SimdCases kSimdCases;
}
namespace gradstep::avx512 {
extern const test::SimdCases kSimdCases;
}
#endif

static test::SimdCases cases_of(const std::string& isa) {
#if defined(GRADSTEP_HAS_AVX)
  if (isa == "avx2") return avx2::kSimdCases;
  if (isa == "avx512") return avx512::kSimdCases;
#endif
  return isa == "baseline" ? baseline::kSimdCases : nullptr;
}

TEST(vector_operations_equal_scalar_ones_on_every_isa) {
  for (const KernelTable* table : supported_tables()) {
    const test::SimdCases cases = cases_of(table->isa);
    if (!CHECK(cases != nullptr)) continue;
    cases({[](bool good, const char* name) { test::check(good, "simd_cases.cpp", 0, name); }});
    std::printf("ran on %s\n", table->isa);
  }
}
