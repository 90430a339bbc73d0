// Errors in ULP of the true value, over a dense sample of all float32 and of float64; with
// GRADSTEP_EVERY_FLOAT set in the environment over every float32 (minutes). Float64 is held against
// the C library's long double, float32 against our own float64, which is 2^29 times finer.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "engine/dispatch.hpp"
#include "tests/check.hpp"
#include "tests/isa/math_cases.hpp"

using namespace gradstep;
using test::Function;

namespace gradstep::baseline {
extern const test::MathCases kMathCases;
}
#if defined(GRADSTEP_HAS_AVX)
namespace gradstep::avx2 {
extern const test::MathCases kMathCases;
}
namespace gradstep::avx512 {
extern const test::MathCases kMathCases;
}
#endif

namespace {

const test::MathCases& cases_of([[maybe_unused]] const std::string& isa) {
#if defined(GRADSTEP_HAS_AVX)
  if (isa == "avx2") return avx2::kMathCases;
  if (isa == "avx512") return avx512::kMathCases;
#endif
  return baseline::kMathCases;
}

struct Row {
  Function function;
  const char* name;
  double f32_ulp, f64_ulp;  // bounds
};
const Row kRows[] = {
    {test::kExp, "exp", 1.1, 1.1},   {test::kLog, "log", 1, 1},
    {test::kTanh, "tanh", 2, 2},     {test::kSigmoid, "sigmoid", 2.5, 2.5},
    {test::kSilu, "silu", 3.5, 3.5}, {test::kGelu, "gelu", 7, 7},
    {test::kSelu, "selu", 4, 4},     {test::kMish, "mish", 5, 5},
};

long double truth(Function function, long double x) {
  const long double e = std::exp(-std::fabs(x));
  switch (function) {
    case test::kExp:
      return std::exp(x);
    case test::kLog:
      return std::log(x);
    case test::kTanh:
      return std::tanh(x);
    case test::kSigmoid:
      return (x < 0 ? e : 1) / (1 + e);
    case test::kSilu:
      return std::isinf(x) ? (x < 0 ? -0.0L : x) : x * ((x < 0 ? e : 1) / (1 + e));
    case test::kSelu:
      return x > 0 ? x * 1.0507009873554804934193349852946L
                   : 1.7580993408473768599402175208123L * std::expm1(x);
    case test::kMish:
      return std::isinf(x) ? (x < 0 ? -0.0L : x) : x * std::tanh(std::log1p(std::exp(x)));
    default:
      return std::isinf(x) ? (x < 0 ? -0.0L : x) : x * std::erfc(-x / std::sqrt(2.0L)) / 2;
  }
}

// The distance of found from exact in units of the spacing of T at exact; 0 for the same special
// value, infinite for a different one.
template <class T, class Wide>
double ulps(T found, Wide exact) {
  const T nearest = static_cast<T>(exact);
  const double inf = std::numeric_limits<double>::infinity();
  if (std::isnan(exact)) return std::isnan(found) ? 0 : inf;
  if (nearest == found) {
    if (nearest == 0 && std::signbit(nearest) != std::signbit(found)) return inf;
    return 0;  // at most half a unit
  }
  if (std::isnan(found) || std::isinf(found) || std::isinf(nearest)) return inf;
  int exponent = 0;
  std::frexp(exact, &exponent);
  typedef std::numeric_limits<T> Limits;
  const int spacing = std::max(exponent, Limits::min_exponent) - Limits::digits;
  return std::fabs(static_cast<double>(std::ldexp(static_cast<Wide>(found) - exact, -spacing)));
}

// The sign and payload of a NaN are free.
template <class T>
bool same(T a, T b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
}

constexpr int64_t kChunk = 1 << 16;
const bool every_float = std::getenv("GRADSTEP_EVERY_FLOAT");

template <class T>
struct Worst {
  double error = 0;
  T x = 0;
  void see(double e, T at) {
    if (e > error) error = e, x = at;
  }
};

Worst<float> worst_float(const Row& row) {
  const test::MathCases& mine = cases_of(supported_tables().back()->isa);
  Worst<float> worst;
  std::vector<float> x(kChunk), y(kChunk);
  std::vector<double> wide(kChunk), exact(kChunk);
  const uint64_t stride = every_float ? 1 : 509;
  for (uint64_t first = 0; first < uint64_t{1} << 32; first += stride * kChunk) {
    for (int64_t i = 0; i < kChunk; ++i) {
      const uint32_t bits =
          static_cast<uint32_t>(std::min(first + i * stride, uint64_t{0xffffffff}));
      std::memcpy(&x[i], &bits, sizeof bits);
      wide[i] = x[i];
    }
    mine.f32(row.function, kChunk, x.data(), y.data());
    mine.f64(row.function, kChunk, wide.data(), exact.data());
    for (int64_t i = 0; i < kChunk; ++i) worst.see(ulps(y[i], exact[i]), x[i]);
  }
  return worst;
}

// Every exponent, mantissas drawn; and the range where the function is neither 0 nor saturated.
std::vector<double> doubles() {
  std::vector<double> x = {0.0,
                           -0.0,
                           INFINITY,
                           -INFINITY,
                           NAN,
                           5e-324,
                           -5e-324,
                           1,
                           -1,
                           709.79,
                           -745.2,
                           0x1p-1022,
                           1.7976931348623157e308,
                           -38.5,
                           20,
                           -20};
  uint64_t state = 1;
  const auto draw = [&] { return state = state * 6364136223846793005u + 1442695040888963407u; };
  const int per_exponent = sizeof(long double) == 16 && LDBL_MANT_DIG == 64 ? 300 : 4;
  for (uint64_t exponent = 0; exponent < 2047; ++exponent)
    for (int i = 0; i < per_exponent; ++i) {
      const uint64_t bits = exponent << 52 | draw() >> 12 | (draw() >> 63) << 63;
      double value;
      std::memcpy(&value, &bits, sizeof value);
      x.push_back(value);
    }
  for (const double range : {0.5, 1.0, 2.0, 8.0, 40.0, 750.0})
    for (int i = 0; i < per_exponent * 1000; ++i)
      x.push_back(static_cast<double>(static_cast<int64_t>(draw())) * 0x1p-63 * range);
  return x;
}

Worst<double> worst_double(const Row& row) {
  const std::vector<double> x = doubles();
  std::vector<double> y(x.size());
  cases_of(supported_tables().back()->isa)
      .f64(row.function, static_cast<int64_t>(x.size()), x.data(), y.data());
  Worst<double> worst;
  for (size_t i = 0; i < x.size(); ++i) worst.see(ulps(y[i], truth(row.function, x[i])), x[i]);
  return worst;
}

}  // namespace

TEST(float64_functions_are_within_their_bounds) {
  for (const Row& row : kRows) {
    const Worst<double> worst = worst_double(row);
    std::printf("%s float64: %.3f ULP at %a\n", row.name, worst.error, worst.x);
    CHECK(worst.error <= row.f64_ulp);
  }
}

TEST(float32_functions_are_within_their_bounds) {
  for (const Row& row : kRows) {
    const Worst<float> worst = worst_float(row);
    std::printf("%s float32: %.3f ULP at %a\n", row.name, worst.error, worst.x);
    CHECK(worst.error <= row.f32_ulp);
  }
}

// Vectors, and scalars in the tail: one element at a time must give the same.
TEST(same_bits_on_every_isa_and_in_tails) {
  const std::vector<double> x = doubles();
  const std::vector<float> narrow(x.begin(), x.end());
  const int64_t n = static_cast<int64_t>(x.size());
  std::vector<double> first(n), again(n);
  std::vector<float> first32(n), again32(n);
  for (const Row& row : kRows) {
    for (int64_t i = 0; i < n; ++i) {
      baseline::kMathCases.f64(row.function, 1, &x[i], &first[i]);
      baseline::kMathCases.f32(row.function, 1, &narrow[i], &first32[i]);
    }
    for (const KernelTable* table : supported_tables()) {
      cases_of(table->isa).f64(row.function, n, x.data(), again.data());
      cases_of(table->isa).f32(row.function, n, narrow.data(), again32.data());
      int64_t different = 0;
      for (int64_t i = 0; i < n; ++i)
        different += !same(first[i], again[i]) + !same(first32[i], again32[i]);
      CHECK_EQUAL(different, 0);
    }
  }
}
