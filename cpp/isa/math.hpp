// exp, log, tanh and their relatives on vectors and scalars with one text, of + - * /, comparisons,
// selections and integer operations on the bits: the same results on every ISA.
// Within 2 ULP of the true value (exp, log, tanh; sigmoid 2.5), subnormal results included;
// infinity, zero and NaN as the C library has them. Rounding to the nearest is assumed. The
// coefficients are minimax polynomials for the intervals named beside them, found with Remez's
// exchange algorithm in 60 digits and rounded to the type.
#pragma once
#include "isa/simd.hpp"

namespace gradstep::GRADSTEP_ISA {

// What belongs to a value: its element, and integers of the same size, as many of them.
template <class V>
struct Lane;
template <>
struct Lane<float> {
  typedef float type;
  typedef uint32_t bits;
};
template <>
struct Lane<double> {
  typedef double type;
  typedef uint64_t bits;
};
template <>
struct Lane<f32> {
  typedef float type;
  typedef u32 bits;
};
template <>
struct Lane<f64> {
  typedef double type;
  typedef u64 bits;
};

template <class To, class From>
ALWAYS_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <class V>
ALWAYS_INLINE V splat(typename Lane<V>::type x) {
  return V{} + x;
}

// x with the sign of `sign`, for x >= 0 or sign < 0.
template <class V>
ALWAYS_INLINE V with_sign(V x, V sign) {
  typedef typename Lane<V>::bits U;
  constexpr int kTop = sizeof(typename Lane<V>::type) * 8 - 1;
  return bits_as<V>(bits_as<U>(x) | (bits_as<U>(sign) >> kTop << kTop));
}

// x but at most (at least) `limit`; NaN stays NaN. GCC does not find these instructions itself;
// they return the second operand where one is NaN.
template <class V>
ALWAYS_INLINE V at_most(V x, typename Lane<V>::type limit) {
  return x > splat<V>(limit) ? splat<V>(limit) : x;
}
template <class V>
ALWAYS_INLINE V at_least(V x, typename Lane<V>::type limit) {
  return x < splat<V>(limit) ? splat<V>(limit) : x;
}
#if defined(__AVX512F__)
ALWAYS_INLINE f32 at_most(f32 x, float limit) {
  return (f32)_mm512_min_ps(_mm512_set1_ps(limit), (__m512)x);
}
ALWAYS_INLINE f64 at_most(f64 x, double limit) {
  return (f64)_mm512_min_pd(_mm512_set1_pd(limit), (__m512d)x);
}
ALWAYS_INLINE f32 at_least(f32 x, float limit) {
  return (f32)_mm512_max_ps(_mm512_set1_ps(limit), (__m512)x);
}
ALWAYS_INLINE f64 at_least(f64 x, double limit) {
  return (f64)_mm512_max_pd(_mm512_set1_pd(limit), (__m512d)x);
}
#endif

// -|x|.
template <class V>
ALWAYS_INLINE V negative_abs(V x) {
  return with_sign(x, splat<V>(-1));
}

// c[0] + c[1] x + ..., even and odd powers apart: two chains, half the latency.
template <int kFrom, int kSize, class V, class T>
ALWAYS_INLINE V every_other(V square, const T (&c)[kSize]) {
  constexpr int kLast = kFrom + (kSize - 1 - kFrom) / 2 * 2;
  V sum = splat<V>(c[kLast]);
#pragma GCC unroll 16
  for (int i = kLast - 2; i >= kFrom; i -= 2) sum = sum * square + c[i];
  return sum;
}
template <class V, class T, int kSize>
ALWAYS_INLINE V polynomial(V x, const T (&c)[kSize]) {
  const V square = x * x;
  return every_other<0>(square, c) + every_other<1>(square, c) * x;
}

template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr int kMantissa = 23;
  static constexpr uint32_t kBias = 127, kRootHalf = 0x3f3504f3u, kOne = 0x3f800000u;
  // Adding it rounds to an integer and leaves that plus 2 kBias in the low bits.
  static constexpr float kRound = 0x1.8p23f + 254, kTwoToMantissa = 0x1p23f;
  static constexpr float kLog2E = 0x1.715476p0f;
  // ln 2 in two parts; multiples of the first up to 2^8 are exact.
  static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  // Beyond these exp is 0 or infinity, even times 2^20.
  static constexpr float kExpLow = -120, kExpHigh = 89;
  static constexpr float kTanhOne = 10;                // tanh rounds to 1 from here on
  static constexpr float kNormalTailEnd = 15;          // x exp(-x^2 / 2) rounds to 0 from here on
  static constexpr uint32_t kUpperHalf = 0xfffff000u;  // its square is exact
  static constexpr float kSmallestNormal = 0x1p-126f, kRaise = 0x1p25f, kRaised = 25;
  // (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2.
  static constexpr float kExp[] = {0x1p-1f, 0x1.555492p-3f, 0x1.555462p-5f, 0x1.1239e6p-7f,
                                   0x1.6db17p-10f};
  // (2 atanh(s) - 2s) / s^3 in s^2, for |s| <= (sqrt(2) - 1) / (sqrt(2) + 1).
  static constexpr float kLog[] = {0x1.555556p-1f, 0x1.999a64p-2f, 0x1.243d46p-2f, 0x1.e2660ep-3f};
  // (a + k) exp(a^2 / 2) (1 - Phi(a)) in t = (a - k) / (a + k), for 0 <= a <= 15.
  static constexpr float kTailCentre = 3;
  static constexpr float kTail[] = {0x1.754a76p-1f,  -0x1.04c72ap-1f,  0x1.d71386p-3f,
                                    -0x1.832d0ap-5f, -0x1.56d5ecp-7f,  0x1.c8bda4p-8f,
                                    0x1.0ca21p-10f,  -0x1.0eaed4p-10f, -0x1.009e24p-12f,
                                    0x1.136b5p-13f,  0x1.c9161p-15f};
};

template <>
struct MathConstants<double> {
  static constexpr int kMantissa = 52;
  static constexpr uint64_t kBias = 1023, kRootHalf = 0x3fe6a09e667f3bcdu,
                            kOne = 0x3ff0000000000000u;
  static constexpr double kRound = 0x1.8p52 + 2046, kTwoToMantissa = 0x1p52;
  static constexpr double kLog2E = 0x1.71547652b82fep0;
  static constexpr double kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45;
  static constexpr double kExpLow = -760, kExpHigh = 710;
  static constexpr double kTanhOne = 20;
  static constexpr double kNormalTailEnd = 39;
  static constexpr uint64_t kUpperHalf = 0xfffffffff8000000u;
  static constexpr double kSmallestNormal = 0x1p-1022, kRaise = 0x1p54, kRaised = 54;
  static constexpr double kExp[] = {
      0x1.0000000000009p-1,  0x1.555555555556p-3,   0x1.5555555550a96p-5,  0x1.111111110da2cp-7,
      0x1.6c16c183d4dcbp-10, 0x1.a01a01b9c48bdp-13, 0x1.a0199abbb7299p-16, 0x1.71dde1effc7b5p-19,
      0x1.28acf47477852p-22, 0x1.af828f6ba1a75p-26};
  static constexpr double kLog[] = {
      0x1.5555555555555p-1, 0x1.9999999999c34p-2, 0x1.249249244859cp-2, 0x1.c71c723c33b42p-3,
      0x1.745ce5f7f67f2p-3, 0x1.3b1f81969ef3ep-3, 0x1.0f7429fbd597ep-3, 0x1.0ea392cd4741p-3};
  // The same for 0 <= a <= 39.2.
  static constexpr double kTailCentre = 5;
  static constexpr double kTail[] = {
      0x1.89d3abe1f95aep-1,  -0x1.54ad03f27ca17p-1, 0x1.fb31653876fap-2,    -0x1.410ed5f8759e3p-2,
      0x1.51f6329f0119cp-3,  -0x1.1b1c254c9eca1p-4, 0x1.54b4d4f4fbdc6p-6,   -0x1.88590ea2878b8p-9,
      -0x1.a250381f7568p-11, 0x1.1daf1c35d8adap-11, -0x1.f2144946e0904p-15, -0x1.a1707b70c23c8p-15,
      0x1.17dc7e8a0a59cp-16, 0x1.0b1e50867bb3dp-18, -0x1.73a3edf069dccp-19, -0x1.6840e62e35797p-22,
      0x1.d0c911ac8d608p-22, 0x1.5ed7161a2615cp-25, -0x1.1b7b5e012acc9p-24, -0x1.1bf2584c725d2p-27,
      0x1.1109c82d47ccep-27, 0x1.86a39be0a9826p-30, -0x1.51a79e822d299p-32};
};

template <class V>
using ConstantsOf = MathConstants<typename Lane<V>::type>;

// The power of two whose exponent n is a value rounded to an integer.
template <class V>
struct PowerOfTwo {
  V raised;  // n + kRound

  static ALWAYS_INLINE PowerOfTwo nearest(V x) { return {x + ConstantsOf<V>::kRound}; }
  ALWAYS_INLINE V exponent() const { return raised - ConstantsOf<V>::kRound; }
  // p 2^n in two factors, for |n| beyond the exponents of normal numbers; only the last rounds.
  ALWAYS_INLINE V times(V p) const {
    constexpr int kMantissa = ConstantsOf<V>::kMantissa;
    const auto shift = bits_as<typename Lane<V>::bits>(raised);  // n + 2 kBias in the low bits
    const auto shift1 = shift >> 1, shift2 = shift - shift1;
    return p * bits_as<V>(shift1 << kMantissa) * bits_as<V>(shift2 << kMantissa);
  }
};
#if defined(__AVX512F__)
template <>
struct PowerOfTwo<f32> {
  f32 n;
  static ALWAYS_INLINE PowerOfTwo nearest(f32 x) {
    return {(f32)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  ALWAYS_INLINE f32 exponent() const { return n; }
  ALWAYS_INLINE f32 times(f32 p) const { return (f32)_mm512_scalef_ps((__m512)p, (__m512)n); }
};
template <>
struct PowerOfTwo<f64> {
  f64 n;
  static ALWAYS_INLINE PowerOfTwo nearest(f64 x) {
    return {(f64)_mm512_roundscale_pd((__m512d)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  ALWAYS_INLINE f64 exponent() const { return n; }
  ALWAYS_INLINE f64 times(f64 p) const { return (f64)_mm512_scalef_pd((__m512d)p, (__m512d)n); }
};
#endif

// x = n ln 2 + r + c with |r| <= ln(2)/2 and c what rounding took from r.
template <class V>
struct Reduced {
  V r, c;
  PowerOfTwo<V> power;  // 2^n
};

// Of high + low; n * kLn2High and its difference from high are exact (Cody & Waite 1980).
template <class V>
ALWAYS_INLINE Reduced<V> reduce_exp(V x, V high, V low) {
  typedef ConstantsOf<V> C;
  const auto power = PowerOfTwo<V>::nearest(x * C::kLog2E);
  const V n = power.exponent();
  const V near = high - n * C::kLn2High, rest = n * C::kLn2Low - low;
  const V r = near - rest;
  return {r, (near - r) - rest, power};
}

// exp(x) = p 2^n: kept apart where another factor may come in before a result becomes subnormal.
template <class V>
struct ExpParts {
  V p;
  PowerOfTwo<V> power;
  ALWAYS_INLINE V times(V factor) const { return power.times(p * factor); }
  ALWAYS_INLINE V value() const { return power.times(p); }
};

template <class V>
ALWAYS_INLINE ExpParts<V> exp_parts(const Reduced<V>& reduced) {
  const V r = reduced.r;
  const V small = r + r * r * polynomial(r, ConstantsOf<V>::kExp);
  return {small + typename Lane<V>::type(1), reduced.power};
}

// For x <= kExpHigh; below kExpLow it is exp(kExpLow), that is 0 when multiplied out.
template <class V>
ALWAYS_INLINE ExpParts<V> exp_parts(V x) {
  x = at_least(x, ConstantsOf<V>::kExpLow);
  return exp_parts(reduce_exp(x, x, V{}));
}

template <class V>
ALWAYS_INLINE V exp(V x) {
  return exp_parts(at_most(x, ConstantsOf<V>::kExpHigh)).value();
}

// exp(x) - 1 = value + lost for 0 <= x <= 2 kTanhOne.
template <class V>
struct Expm1 {
  V value, lost;
};

template <class V>
ALWAYS_INLINE Expm1<V> expm1_positive(V x) {
  typedef typename Lane<V>::type T;
  const Reduced<V> reduced = reduce_exp(x, x, V{});
  const V r = reduced.r;
  const V scale = reduced.power.times(splat<V>(1));
  const V whole = scale - T(1), part = scale * r;
  const V sum = whole + part, lost = part - (sum - whole);
  const V small = lost + scale * (reduced.c + r * r * polynomial(r, ConstantsOf<V>::kExp));
  const V value = sum + small;
  return {value, small - (value - sum)};
}

// With m = exp(2 |x|) - 1, m / (m + 2), and to first order what the roundings of m and of m + 2
// took; beyond m = 1024 that is little, and 1 - y, which is 2 / (m + 2), too coarse.
template <class V>
ALWAYS_INLINE V tanh(V x) {
  typedef typename Lane<V>::type T;
  const Expm1<V> m = expm1_positive(at_most(abs(x), ConstantsOf<V>::kTanhOne) * T(2));
  const V d = m.value + T(2), y = m.value / d, rest = T(1) - y;
  const V lost = m.lost * rest - y * (m.value - (d - T(2)));
  const V correction = lost * (rest * T(0.5));
  return with_sign(y + (m.value < splat<V>(1024) ? correction : V{}), x);
}

// 1 / (1 + exp(-x)), without overflow on either side.
template <class V>
ALWAYS_INLINE V sigmoid(V x) {
  typedef typename Lane<V>::type T;
  const V e = exp_parts(negative_abs(x)).value();
  return (x < V{} ? e : splat<V>(1)) / (e + T(1));
}

// x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); with s = f / (2 + f),
// log(1 + f) = 2 atanh(s) = f - f^2/2 + s (f^2/2 + s^2 Q(s^2)).
template <class V>
ALWAYS_INLINE V log(V x) {
  typedef ConstantsOf<V> C;
  typedef typename Lane<V>::bits U;
  typedef typename Lane<V>::type T;
  const auto subnormal = x < splat<V>(C::kSmallestNormal);
  const V raised = subnormal ? x * C::kRaise : x;
  const U shifted = bits_as<U>(raised) + (C::kOne - C::kRootHalf);
  const U mantissa = (shifted & (((U{} + 1) << C::kMantissa) - 1)) + C::kRootHalf;
  const U exponent = (shifted >> C::kMantissa) | bits_as<U>(splat<V>(C::kTwoToMantissa));
  const V k = bits_as<V>(exponent) - (C::kTwoToMantissa + T(C::kBias)) -
              (subnormal ? splat<V>(C::kRaised) : V{});
  const V f = bits_as<V>(mantissa) - T(1);
  const V s = f / (f + T(2)), z = s * s, half = f * f * T(0.5);
  const V rest = s * (half + z * polynomial(z, C::kLog)) + k * C::kLn2Low;
  const V y = k * C::kLn2High - ((half - rest) - f);
  const V inf = splat<V>(__builtin_inf());
  const V outside = x == V{} ? -inf : splat<V>(__builtin_nan(""));
  return x > V{} ? (x < inf ? y : x) : outside;
}

// For a = |x|, at most kNormalTailEnd: exp(-a^2 / 2) in parts, and R with R exp(-a^2 / 2) the
// probability of a standard normal variable above a. The square is split into an exact part and a
// rest (Dekker 1971): rounded as a whole it would cost a^2 / 2 ULP.
template <class V>
struct NormalTail {
  V a;
  ExpParts<V> density;
  V ratio;
};

template <class V>
ALWAYS_INLINE NormalTail<V> normal_tail(V x) {
  typedef ConstantsOf<V> C;
  typedef typename Lane<V>::type T;
  const V a = at_most(abs(x), C::kNormalTailEnd);
  const V upper = bits_as<V>(bits_as<typename Lane<V>::bits>(a) & C::kUpperHalf);
  const V high = upper * upper * T(-0.5), low = (a - upper) * (a + upper) * T(-0.5);
  const V inverse = T(1) / (a + C::kTailCentre);
  const V ratio = polynomial((a - C::kTailCentre) * inverse, C::kTail) * inverse;
  return {a, exp_parts(reduce_exp(high + low, high, low)), ratio};
}

}  // namespace gradstep::GRADSTEP_ISA
