// Compiled once per ISA: every operation of simd.hpp on vectors gives what it gives on scalars, and
// that is what it should be on special values.
#include "tests/isa/simd_cases.hpp"

#include "isa/elementwise.hpp"

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

// Masks of 32-bit lanes, from a pattern of bits.
static void run_masks(const test::Report& report, uint32_t pattern) {
  constexpr int kWidth = kBytes / 4;
  i32 mask, other;
  uint32_t bits = 0;
  uint8_t bytes[kWidth];
  for (int i = 0; i < kWidth; ++i) {
    bytes[i] = pattern >> i & 1, bits |= (pattern >> i & 1) << i;
    mask[i] = -bytes[i], other[i] = 100 + i;
  }
  report(mask_bits(mask) == bits, "mask_bits");
  i64 wide[2];
  widen_mask(mask, wide);
  const i32 narrow = load_bytes32(bytes);
  const i64 narrow64 = load_bytes64(bytes);
  const f32 chosen = select(mask, (f32)other, f32{} + 2);
  for (int i = 0; i < kWidth; ++i) {
    report(wide[i / (kWidth / 2)][i % (kWidth / 2)] == mask[i], "widen_mask");
    report(narrow[i] == bytes[i], "load_bytes32");
    report(i >= kWidth / 2 || narrow64[i] == bytes[i], "load_bytes64");
    report(chosen[i] == select(mask[i] != 0, ((f32)other)[i], 2.0f), "select f32");
  }
  const f64 chosen64 = select(wide[0], f64{} + 3, f64{} - __builtin_inf());
  for (int i = 0; i < kWidth / 2; ++i)
    report(chosen64[i] == (mask[i] ? 3 : -__builtin_inf()), "select f64");
}

static void run_products(const test::Report& report) {
  const uint64_t special[] = {0, 1, 0xffffffffu, 0x80000000u, 0xffffffff00000003u, ~uint64_t{0}};
  const uint32_t factors[] = {0, 1, 0xD2511F53u, 0xffffffffu};
  for (const uint64_t a : special)
    for (const uint32_t m : factors) {
      const u64 product = multiply_low32(u64{} + a, m);
      for (int i = 0; i < kBytes / 8; ++i)
        report(product[i] == (a & 0xffffffffu) * m, "multiply_low32");
    }
}

// Every start and length around a vector, and nothing beside it.
template <class T>
static void run_fill_past_cache(const test::Report& report) {
  constexpr int kSize = 3 * 64 / sizeof(T);
  alignas(64) T x[kSize], y[kSize + 16];
  for (int i = 0; i < kSize; ++i) x[i] = T(i + 1);
  for (int start = 0; start < 16; ++start)
    for (int n = 0; n <= kSize - 16; ++n) {
      for (T& value : y) value = 0;
      fill(y + start, n, true, [](auto v) __attribute__((always_inline)) { return v; }, x);
      stream_fence();
      bool good = true;
      for (int i = 0; i < kSize + 16; ++i)
        good = good && y[i] == (i >= start && i < start + n ? x[i - start] : T(0));
      report(good, "fill past the cache");
    }
}

extern const test::SimdCases kSimdCases;
const test::SimdCases kSimdCases = [](const test::Report& report) {
  Cases<float>::run(report);
  Cases<double>::run(report);
  for (uint32_t i = 0; i < 200; ++i) run_masks(report, i * 0x9E3779B9u);
  run_products(report);
  run_fill_past_cache<float>(report);
  run_fill_past_cache<double>(report);
};

}  // namespace gradstep::GRADSTEP_ISA
