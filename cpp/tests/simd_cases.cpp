// Compiled once per ISA: every operation of simd.hpp on vectors gives what it gives on scalars, and
// that is what it should be on special values.
#include "simd_cases.hpp"

#include "../simd.hpp"

namespace gradstep::GRADSTEP_ISA {

template <class T>
struct Cases {
  typedef typename Native<T>::type V;
  static constexpr int kWidth = kLanes<V, T>;

  static bool same(T a, T b) {
    return __builtin_memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
  }

  // op(V, V) lane by lane equals op(T, T), for every pair of special values.
  template <class Op>
  static void agree(const test::Report& report, const char* name, const Op& op) {
    const T inf = __builtin_inf(), tiny = sizeof(T) == 4 ? T(1e-45) : T(5e-324);
    const T special[] = {0, T(-0.0), 1, -1, 2, T(-0.5), T(3.25), inf, -inf, -tiny, tiny, T(1e30)};
    constexpr int kCount = sizeof special / sizeof *special;
    for (int first = 0; first <= kCount; ++first)
      for (int second = 0; second <= kCount; ++second) {
        T a[kWidth], b[kWidth], found[kWidth];
        for (int i = 0; i < kWidth; ++i) {
          const int x = (first + i) % (kCount + 1);
          a[i] = x < kCount ? special[x] : T(__builtin_nan(""));
          b[i] = second < kCount ? special[second] : T(__builtin_nan(""));
        }
        store(found, op(load<V>(a), load<V>(b)));
        bool good = true;
        for (int i = 0; i < kWidth; ++i) good = good && same(found[i], op(a[i], b[i]));
        report(good, name);
      }
  }

  static void run(const test::Report& report) {
    const T nan = __builtin_nan(""), inf = __builtin_inf();
    agree(report, "sqrt", [](auto a, auto) { return sqrt(a); });
    agree(report, "abs", [](auto a, auto) { return abs(a); });
    agree(report, "sign", [](auto a, auto) { return sign(a); });
    agree(report, "maximum", [](auto a, auto b) { return maximum(a, b); });
    agree(report, "clamp", [](auto a, auto b) { return clamp(a, b); });
    agree(report, "a * b + a / b - b", [](auto a, auto b) { return a * b + a / b - b; });
    report(same(maximum(nan, T(1)), nan) && same(maximum(T(1), nan), nan), "maximum keeps NaN");
    report(same(clamp(nan, T(1)), nan) && same(clamp(-inf, T(2)), T(-2)), "clamp");
    report(same(sign(T(-0.0)), T(-0.0)) && same(sign(nan), nan), "sign of 0 and NaN");
    report(sign(T(1e-40)) == 1 && sign(-inf) == -1, "sign");
    report(same(abs(T(-0.0)), T(0)), "abs of -0");

    T x[kWidth];
    for (int i = 0; i < kWidth; ++i) x[i] = T(i) + T(0.1);
    const f64 wide = load_f64(x);
    for (int i = 0; i < kBytes / 8; ++i) report(wide[i] == static_cast<double>(x[i]), "load_f64");
  }
};

extern const test::SimdCases kSimdCases;
const test::SimdCases kSimdCases = [](const test::Report& report) {
  Cases<float>::run(report);
  Cases<double>::run(report);
};

}  // namespace gradstep::GRADSTEP_ISA
