// The value types of one ISA: compiler vectors of its native width, with the operators of the
// language. Only what the language lacks is written here, once, with a portable fallback.
// Everything lives in the namespace named by GRADSTEP_ISA, so that units compiled with different
// flags share no symbol. Pass vectors through ALWAYS_INLINE functions only.
#pragma once
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace gradstep::GRADSTEP_ISA {

#if defined(__AVX512F__)
inline constexpr int kBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kBytes = 32;
#else
inline constexpr int kBytes = 16;
#endif

typedef float f32 __attribute__((vector_size(kBytes)));
typedef double f64 __attribute__((vector_size(kBytes)));
typedef int32_t i32 __attribute__((vector_size(kBytes)));
typedef int64_t i64 __attribute__((vector_size(kBytes)));
typedef uint32_t u32 __attribute__((vector_size(kBytes)));
typedef uint64_t u64 __attribute__((vector_size(kBytes)));
typedef float half_f32 __attribute__((vector_size(kBytes / 2)));  // as many floats as f64 has lanes

template <class T>
struct Native;
template <>
struct Native<float> {
  typedef f32 type;
};
template <>
struct Native<double> {
  typedef f64 type;
};

// A value is a vector, or the scalar that the tail of an array uses.
template <class V, class T>
inline constexpr int64_t kLanes = sizeof(V) / sizeof(T);

template <class V, class T>
ALWAYS_INLINE V load(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class V, class T>
ALWAYS_INLINE void store(T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// In double. (GCC 12 converts a whole vector in two halves.)
ALWAYS_INLINE double widened(double x) { return x; }
ALWAYS_INLINE double widened(float x) { return x; }
ALWAYS_INLINE f64 widened(f64 x) { return x; }
ALWAYS_INLINE f64 widened(half_f32 x) {
#if defined(__AVX512F__)
  return (f64)_mm512_cvtps_pd((__m256)x);
#elif defined(__AVX2__)
  return (f64)_mm256_cvtps_pd((__m128)x);
#else
  return __builtin_convertvector(x, f64);
#endif
}

// One f64 of consecutive elements, widened where they are floats.
ALWAYS_INLINE f64 load_f64(const double* p) { return load<f64>(p); }
ALWAYS_INLINE f64 load_f64(const float* p) { return widened(load<half_f32>(p)); }

// Correctly rounded on every ISA, like + - * /.
ALWAYS_INLINE float sqrt(float x) { return __builtin_sqrtf(x); }
ALWAYS_INLINE double sqrt(double x) { return __builtin_sqrt(x); }
#if defined(__AVX512F__)
ALWAYS_INLINE f32 sqrt(f32 x) { return (f32)_mm512_sqrt_ps((__m512)x); }
ALWAYS_INLINE f64 sqrt(f64 x) { return (f64)_mm512_sqrt_pd((__m512d)x); }
#elif defined(__AVX2__)
ALWAYS_INLINE f32 sqrt(f32 x) { return (f32)_mm256_sqrt_ps((__m256)x); }
ALWAYS_INLINE f64 sqrt(f64 x) { return (f64)_mm256_sqrt_pd((__m256d)x); }
#elif defined(__SSE2__)
ALWAYS_INLINE f32 sqrt(f32 x) { return (f32)_mm_sqrt_ps((__m128)x); }
ALWAYS_INLINE f64 sqrt(f64 x) { return (f64)_mm_sqrt_pd((__m128d)x); }
#elif defined(__aarch64__)
ALWAYS_INLINE f32 sqrt(f32 x) { return (f32)vsqrtq_f32((float32x4_t)x); }
ALWAYS_INLINE f64 sqrt(f64 x) { return (f64)vsqrtq_f64((float64x2_t)x); }
#else
ALWAYS_INLINE f32 sqrt(f32 x) {
  for (int i = 0; i < kBytes / 4; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
ALWAYS_INLINE f64 sqrt(f64 x) {
  for (int i = 0; i < kBytes / 8; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
}
#endif

ALWAYS_INLINE float abs(float x) { return __builtin_fabsf(x); }
ALWAYS_INLINE double abs(double x) { return __builtin_fabs(x); }
ALWAYS_INLINE f32 abs(f32 x) { return (f32)((u32)x & 0x7fffffffu); }
ALWAYS_INLINE f64 abs(f64 x) { return (f64)((u64)x & 0x7fffffffffffffffu); }

// NaN in either operand gives NaN.
template <class V>
ALWAYS_INLINE V maximum(V a, V b) {
  return ((a > b) | (a != a)) ? a : b;
}

// x limited to [-limit, limit]; NaN stays NaN.
template <class V>
ALWAYS_INLINE V clamp(V x, V limit) {
  x = x > limit ? limit : x;
  return x < -limit ? -limit : x;
}

// 1, -1, or x itself where that is 0 or NaN.
template <class V>
ALWAYS_INLINE V sign(V x) {
  const V zero = {}, one = zero + 1;
  x = x > zero ? one : x;
  return x < zero ? -one : x;
}

}  // namespace gradstep::GRADSTEP_ISA
