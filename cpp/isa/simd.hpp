// The value types of one ISA: compiler vectors of its native width, with the operators of the
// language. Only what the language lacks is written here, once, with a portable fallback.
// Everything lives in the namespace named by GRADSTEP_ISA, so that units compiled with different
// flags share no symbol. Pass vectors through ALWAYS_INLINE functions only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
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

// The 64-bit products of the low halves of the lanes of a, whatever their high halves, with m.
ALWAYS_INLINE u64 multiply_low32(u64 a, uint32_t m) {
#if defined(__AVX512F__)
  return (u64)_mm512_mul_epu32((__m512i)a, (__m512i)(u64{} + m));
#elif defined(__AVX2__)
  return (u64)_mm256_mul_epu32((__m256i)a, (__m256i)(u64{} + m));
#elif defined(__SSE2__)
  return (u64)_mm_mul_epu32((__m128i)a, (__m128i)(u64{} + m));
#elif defined(__aarch64__)
  return (u64)vmull_u32(vmovn_u64((uint64x2_t)a), vdup_n_u32(m));
#else
  return (a & 0xffffffffu) * m;
#endif
}

// Bit i is lane i of a mask whose lanes are 0 or -1.
ALWAYS_INLINE uint32_t mask_bits(i32 mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)mask));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kBytes / 4; ++i) bits |= (mask[i] & 1u) << i;
  return bits;
#endif
}

// A mask of 32-bit lanes for as many 64-bit lanes, in two vectors. (Intrinsics because GCC 12 takes
// __builtin_convertvector apart.)
ALWAYS_INLINE void widen_mask(i32 mask, i64 wide[2]) {
#if defined(__AVX512F__)
  wide[0] = (i64)_mm512_cvtepi32_epi64(_mm512_castsi512_si256((__m512i)mask));
  wide[1] = (i64)_mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64((__m512i)mask, 1));
#elif defined(__AVX2__)
  wide[0] = (i64)_mm256_cvtepi32_epi64(_mm256_castsi256_si128((__m256i)mask));
  wide[1] = (i64)_mm256_cvtepi32_epi64(_mm256_extracti128_si256((__m256i)mask, 1));
#elif defined(__SSE2__)
  wide[0] = (i64)_mm_unpacklo_epi32((__m128i)mask, (__m128i)mask);
  wide[1] = (i64)_mm_unpackhi_epi32((__m128i)mask, (__m128i)mask);
#elif defined(__aarch64__)
  wide[0] = (i64)vmovl_s32(vget_low_s32((int32x4_t)mask));
  wide[1] = (i64)vmovl_high_s32((int32x4_t)mask);
#else
  for (int i = 0; i < kBytes / 4; ++i) wide[i / (kBytes / 8)][i % (kBytes / 8)] = mask[i];
#endif
}

// a where the mask is -1, b where it is 0.
ALWAYS_INLINE f32 select(i32 mask, f32 a, f32 b) { return mask ? a : b; }
ALWAYS_INLINE f64 select(i64 mask, f64 a, f64 b) {
#if defined(__AVX2__)
  return mask ? a : b;
#else  // SSE2 compares no 64-bit lanes: GCC makes branches of ?:
  return (f64)(((i64)a & mask) | ((i64)b & ~mask));
#endif
}
template <class T>
ALWAYS_INLINE T select(bool mask, T a, T b) {
  return mask ? a : b;
}

// The elements of a table of 16, aligned to 64 bytes, that the low four bits of the index name.
ALWAYS_INLINE float lookup(const float* table, uint32_t index) { return table[index & 15]; }
ALWAYS_INLINE f32 lookup(const float* table, u32 index) {
#if defined(__AVX512F__)
  return (f32)_mm512_permutexvar_ps((__m512i)index, _mm512_load_ps(table));
#elif defined(__AVX2__)
  // Zen 3 takes longer to permute what comes straight from memory: the barrier keeps the loads
  // apart.
  __m256 low = _mm256_load_ps(table), high = _mm256_load_ps(table + 8);
  asm("" : "+x"(low), "+x"(high) : "x"(index));
  low = _mm256_permutevar8x32_ps(low, (__m256i)index);
  high = _mm256_permutevar8x32_ps(high, (__m256i)index);
  return (f32)_mm256_blendv_ps(low, high, (__m256)(index << 28));
#elif defined(__aarch64__) && defined(__ORDER_LITTLE_ENDIAN__)
  const uint8_t* bytes = (const uint8_t*)table;
  const uint8x16x4_t all = {
      {vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
  const u32 at = (index & 15) * 0x04040404u + 0x03020100u;
  return (f32)vqtbl4q_u8(all, (uint8x16_t)at);
#else
  f32 found;
  for (int i = 0; i < kBytes / 4; ++i) found[i] = table[index[i] & 15];
  return found;
#endif
}

// Whether any lane of x is above the limit.
ALWAYS_INLINE bool any_above(float x, float limit) { return x > limit; }
ALWAYS_INLINE bool any_above(f32 x, float limit) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
#else
  return mask_bits(x > limit) != 0;
#endif
}

// One byte of 0 to 127 for each lane.
ALWAYS_INLINE i32 load_bytes32(const uint8_t* p) {
#if defined(__AVX512F__)
  return (i32)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif defined(__AVX2__)
  return (i32)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
  i32 v;
  for (int i = 0; i < kBytes / 4; ++i) v[i] = p[i];
  return v;
#endif
}
ALWAYS_INLINE i64 load_bytes64(const uint8_t* p) {
#if defined(__AVX512F__)
  return (i64)_mm512_cvtepi8_epi64(_mm_loadl_epi64((const __m128i*)p));
#elif defined(__AVX2__)
  return (i64)_mm256_cvtepi8_epi64(_mm_cvtsi32_si128(load<int>((const int*)p)));
#else
  i64 v;
  for (int i = 0; i < kBytes / 8; ++i) v[i] = p[i];
  return v;
#endif
}

// Lane i is lane i + kBy of v, around the end.
template <int kBy, class V, std::size_t... kLane>
ALWAYS_INLINE V rotated(V v, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(v, v, (kLane + kBy) % sizeof...(kLane)...);
}

// All lanes combined in halves: 0 with half, ..., then 0 with 1. In registers: through memory the
// second load would wait for the first store.
template <class T, class V, class Combine, int kHalf = kLanes<V, T> / 2>
ALWAYS_INLINE T fold_lanes(V v, const Combine& combine) {
  if constexpr (kHalf == 0) {
    return v[0];
  } else {
    typedef std::make_index_sequence<kLanes<V, T>> All;
    return fold_lanes<T, V, Combine, kHalf / 2>(combine(v, rotated<kHalf>(v, All())), combine);
  }
}

struct Add {
  template <class V>
  ALWAYS_INLINE V operator()(V a, V b) const {
    return a + b;
  }
};

// Store past the cache, to an address aligned to the vector; other threads see it after
// stream_fence().
template <class V, class T>
ALWAYS_INLINE void store_past_cache(T* p, V v) {
#if defined(__AVX512F__)
  _mm512_stream_si512((__m512i*)p, (__m512i)v);
#elif defined(__AVX2__)
  _mm256_stream_si256((__m256i*)p, (__m256i)v);
#elif defined(__SSE2__)
  _mm_stream_si128((__m128i*)p, (__m128i)v);
#else
  store(p, v);
#endif
}

// Asks for the line of x + ahead, which may lie outside the array. For loops whose reads the CPU
// does not foresee: masked loads, and rows that are walked one by one. A pointer to other than
// const asks for a line that will be written.
template <class T>
ALWAYS_INLINE void prefetch(const T* x, int64_t ahead) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(x) +
                                                   static_cast<uintptr_t>(ahead) * sizeof(T)));
}

template <class T>
ALWAYS_INLINE void prefetch(T* x, int64_t ahead) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(x) +
                                                   static_cast<uintptr_t>(ahead) * sizeof(T)),
                     1);
}

ALWAYS_INLINE void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace gradstep::GRADSTEP_ISA
