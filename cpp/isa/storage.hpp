// Between the types that arrays are stored in and the float32 of the formulas: whole runs of
// elements through a buffer that stays in L1, so that no formula knows of storage. Rounds to
// nearest, halves to even, or, with random bits, up with the probability that is due (Gupta et al.
// 2015, arXiv:1502.02551); keeps subnormals, and makes one NaN of all. The same bits on every ISA.
#pragma once
#include "isa/elementwise.hpp"
#include "isa/philox.hpp"

namespace gradstep::GRADSTEP_ISA::storage {

typedef uint16_t u16 __attribute__((vector_size(kBytes / 2)));  // as many as f32 has lanes

inline constexpr int kWidth = kBytes / 4;

// The low halves of the lanes.
ALWAYS_INLINE u16 narrowed(u32 v) {
#if defined(__AVX512F__)
  return (u16)_mm512_cvtepi32_epi16((__m512i)v);
#elif defined(__AVX2__)
  const __m256i kept = _mm256_and_si256((__m256i)v, _mm256_set1_epi32(0xffff));
  const __m256i packed = _mm256_packus_epi32(kept, kept);
  return (u16)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#elif defined(__SSE2__)
  const __m128i extended = _mm_srai_epi32(_mm_slli_epi32((__m128i)v, 16), 16);
  const __m128i packed = _mm_packs_epi32(extended, extended);
  return (u16)_mm_cvtsi128_si64(packed);
#else
  return __builtin_convertvector(v, u16);
#endif
}

ALWAYS_INLINE u32 widened(u16 v) {
#if defined(__AVX512F__)
  return (u32)_mm512_cvtepu16_epi32((__m256i)v);
#elif defined(__AVX2__)
  return (u32)_mm256_cvtepu16_epi32((__m128i)v);
#elif defined(__SSE2__)
  return (u32)_mm_unpacklo_epi16(_mm_cvtsi64_si128((long long)v), _mm_setzero_si128());
#else
  return __builtin_convertvector(v, u32);
#endif
}

// Elements that loads ask for in advance: the next block, while formulas run on this one.
inline constexpr int64_t kAhead = 1024;

ALWAYS_INLINE u32 chosen(i32 mask, u32 a, u32 b) { return (u32)(mask ? a : b); }
ALWAYS_INLINE i32 is_nan(f32 x) { return (i32)(x != x); }

// Random bits for each of n elements from 64 tile on, 32 in a lane: the words of philox.hpp with
// seven rounds, turned so that the 16 bits of the element's row are below. `random` has room for
// whole tiles.
ALWAYS_INLINE void random_words(uint64_t seed, uint64_t offset, int64_t tile, int64_t n,
                                uint32_t* random) {
  const uint64_t span = (uint64_t{1} << 32) / kTileBlocks;  // tiles that share a high word
  for (int64_t at = 0; at < n;) {
    const auto first = static_cast<uint64_t>(tile);
    const Philox<7> philox(seed, offset, static_cast<uint32_t>(first / span));
    int64_t stop = at + static_cast<int64_t>(span - first % span) * kTile;
    stop = stop < n ? stop : n;
    for (; at < stop; at += kTile, ++tile)
      for (int lane = 0; lane < 16; lane += kWidth) {
        u32 pair[2];
        philox(static_cast<uint32_t>(tile * kTileBlocks) + lane / 2, pair);
        for (int i = 0; i < 2; ++i) {
          store(random + at + 32 * i + lane, pair[i]);
          store(random + at + 32 * i + 16 + lane, pair[i] << 16 | pair[i] >> 16);
        }
      }
  }
}

// The 16 bits of each word from bit `from` on: several arrays share the words, no two of them the
// bits that decide most.
struct Random {
  const uint32_t* words;
  int from;  // 0 ... 16
  ALWAYS_INLINE u32 operator()(int64_t i) const { return (load<u32>(words + i) >> from) & 0xffffu; }
};

// bfloat16: the upper half of a float32.
struct Bfloat16 {
  static ALWAYS_INLINE f32 load(u16 v) { return (f32)(widened(v) << 16); }
  static ALWAYS_INLINE u16 store(f32 x) {
    const u32 bits = (u32)x;
    const u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return narrowed(chosen(is_nan(x), u32{} + 0x7fc0u, rounded));
  }
  // Up where r, of 0 to 65535, and what is cut off are at least 65536 together. Infinity stays, and
  // the largest numbers may become it, as they do by rounding.
  static ALWAYS_INLINE u16 store(f32 x, u32 r) {
    const u32 bits = (u32)x;
    return narrowed(chosen(is_nan(x), u32{} + 0x7fc00000u, bits + r) >> 16);
  }
};

struct Float16 {
  static ALWAYS_INLINE f32 load(u16 v) {
    const u32 h = widened(v), sign = (h & 0x8000u) << 16, magnitude = h & 0x7fffu;
    const u32 normal = (magnitude << 13) + (112u << 23);
    // Below 2^-14 a multiple of 2^-24; the integers are exact.
    const f32 small = __builtin_convertvector((i32)magnitude, f32) * 0x1p-24f;
    const u32 special = (magnitude << 13) | 0x7f800000u;
    u32 bits = chosen((i32)magnitude < 0x400, (u32)small, normal);
    bits = chosen((i32)magnitude >= 0x7c00, special, bits);
    return (f32)(bits | sign);
  }
  static ALWAYS_INLINE u16 store(f32 x) {
    const u32 bits = (u32)x, sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    const u32 normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // The sum with 1/2 rounds to multiples of 2^-24, which then stand at its end.
    const u32 small = (u32)((f32)magnitude + 0.5f) - 0x3f000000u;
    u32 half = chosen((i32)magnitude < 0x38800000, small, normal);
    half = chosen((i32)magnitude >= 0x477ff000, u32{} + 0x7c00u, half);  // from 65520 on
    return narrowed(chosen(is_nan(x), u32{} + 0x7e00u, half | sign));
  }
};

// x[i] = what y[i] stands for, and back. Beyond n both have room for one vector less one element.
template <class S>
ALWAYS_INLINE void load_all(const uint16_t* y, int64_t n, float* x) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    prefetch(y + i, kAhead);
    store(x + i, S::load(load<u16>(y + i)));
  }
  if (i == n) return;
  uint16_t last[kWidth] = {};
  __builtin_memcpy(last, y + i, static_cast<size_t>(n - i) * 2);
  store(x + i, S::load(load<u16>(last)));
}

// whole(i): the stored lanes of elements from i on.
template <class Whole>
ALWAYS_INLINE void store_lanes(uint16_t* y, int64_t n, const Whole& whole) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, whole(i));
  if (i == n) return;
  uint16_t last[kWidth];
  store(last, whole(i));
  __builtin_memcpy(y + i, last, static_cast<size_t>(n - i) * 2);
}

// x has room for one vector less one element beyond n.
template <class S>
ALWAYS_INLINE void store_all(const float* x, int64_t n, uint16_t* y) {
  store_lanes(y, n,
              [&](int64_t i) __attribute__((always_inline)) { return S::store(load<f32>(x + i)); });
}

template <class S>
ALWAYS_INLINE void store_all(const float* x, int64_t n, uint16_t* y, const Random& random) {
  store_lanes(y, n, [&](int64_t i) __attribute__((always_inline)) {
    return S::store(load<f32>(x + i), random(i));
  });
}

// A float32 as a bfloat16 and the signed 16 bits that are missing: bits = (high << 16) + low. The
// high half is the nearest bfloat16, halves away from 0.
ALWAYS_INLINE void load_split(const uint16_t* high, const uint16_t* low, int64_t n, float* x) {
  const auto joined = [](u16 h, u16 l) __attribute__((always_inline)) {
    const i32 extended = (i32)(widened(l) << 16) >> 16;
    return (f32)((widened(h) << 16) + (u32)extended);
  };
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    prefetch(high + i, kAhead);
    prefetch(low + i, kAhead);
    store(x + i, joined(load<u16>(high + i), load<u16>(low + i)));
  }
  if (i == n) return;
  uint16_t last[2][kWidth] = {};
  __builtin_memcpy(last[0], high + i, static_cast<size_t>(n - i) * 2);
  __builtin_memcpy(last[1], low + i, static_cast<size_t>(n - i) * 2);
  store(x + i, joined(load<u16>(last[0]), load<u16>(last[1])));
}

ALWAYS_INLINE void store_split(const float* x, int64_t n, uint16_t* high, uint16_t* low) {
  int64_t i = 0;
  uint16_t last[2][kWidth];
  for (; i < n; i += kWidth) {
    const bool whole = i + kWidth <= n;
    const f32 value = load<f32>(x + i);
    const u32 bits = chosen(is_nan(value), u32{} + 0x7fc00000u, (u32)value);
    store(whole ? high + i : last[0], narrowed((bits + 0x8000u) >> 16));
    store(whole ? low + i : last[1], narrowed(bits));
  }
  if (i == n) return;
  i -= kWidth;
  __builtin_memcpy(high + i, last[0], static_cast<size_t>(n - i) * 2);
  __builtin_memcpy(low + i, last[1], static_cast<size_t>(n - i) * 2);
}

// Eight bits in blocks (Dettmers et al. 2022, arXiv:2110.02861) of kScaleBlock elements that share
// the largest magnitude among them as their scale. A code counts steps of float32 bits below it, so
// each octave has as many: 8 for signed numbers, 16 for those >= 0, over 16 octaves. What is less
// becomes 0, and the least code where all are >= 0, because these are divided by. Rounded with
// random bits, so that what changes by less than a step moves on average. Where a block holds
// something not finite, all of it becomes NaN.
typedef int8_t i8 __attribute__((vector_size(kBytes / 4)));

ALWAYS_INLINE i8 narrowed8(i32 v) {
#if defined(__AVX512F__)
  return (i8)_mm512_cvtepi32_epi8((__m512i)v);
#elif defined(__AVX2__)
  const __m256i each =
      _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                       -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i packed = _mm256_shuffle_epi8((__m256i)v, each);
  return (i8)_mm_cvtsi128_si64(
      _mm_unpacklo_epi32(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1)));
#else
  return __builtin_convertvector(v, i8);
#endif
}

ALWAYS_INLINE i32 widened8(i8 v) {
#if defined(__AVX512F__)
  return (i32)_mm512_cvtepi8_epi32((__m128i)v);
#elif defined(__AVX2__)
  return (i32)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)v));
#else
  return __builtin_convertvector(v, i32);
#endif
}

inline constexpr int32_t kInfinity = 0x7f800000;

// The sign above seven bits.
struct Signed8 {
  static constexpr int kShift = 20, kLargest = 127;
  static ALWAYS_INLINE i32 code(i32 steps, i32 bits) {
    return steps | (i32)(((u32)bits >> 31) << 7);
  }
  static ALWAYS_INLINE f32 value(i32 byte, i32 largest) {
    const i32 code = byte & 127;
    i32 bits = largest - ((kLargest - code) << kShift);
    bits = code == 0 ? i32{} : bits < 1 ? i32{} + 1 : bits;
    return (f32)(bits | (i32)((u32)byte << 24 & 0x80000000u));
  }
};

struct Positive8 {
  static constexpr int kShift = 19, kLargest = 255;
  static ALWAYS_INLINE i32 code(i32 steps, i32 bits) {
    return ((bits > 0) & (steps < 1)) ? i32{} + 1 : steps;
  }
  static ALWAYS_INLINE f32 value(i32 byte, i32 largest) {
    const i32 code = byte & 255;
    i32 bits = largest - ((kLargest - code) << kShift);
    bits = code == 0 ? i32{} : bits < 1 ? i32{} + 1 : bits;
    return (f32)bits;
  }
};

template <class S>
ALWAYS_INLINE void load_block(const int8_t* y, float scale, int64_t n, float* x) {
  int32_t bits;
  __builtin_memcpy(&bits, &scale, sizeof bits);
  if (bits >= kInfinity || bits < 0) {
    for (int64_t i = 0; i < n; ++i) x[i] = __builtin_nanf("");
    return;
  }
  const i32 largest = i32{} + bits;
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    prefetch(y + i, kAhead);
    store(x + i, S::value(widened8(load<i8>(y + i)), largest));
  }
  if (i == n) return;
  int8_t last[kWidth] = {};
  __builtin_memcpy(last, y + i, static_cast<size_t>(n - i));
  store(x + i, S::value(widened8(load<i8>(last)), largest));
}

// x has room for one vector less one element beyond n.
template <class S>
ALWAYS_INLINE void store_block(float* x, int64_t n, int8_t* y, float* scale, const Random& random,
                               int64_t at) {
  i32 most = {};
  for (int64_t i = n; i % kWidth; ++i) x[i] = 0;
  for (int64_t i = 0; i < n; i += kWidth) {
    const i32 magnitude = load<i32>(reinterpret_cast<const int32_t*>(x + i)) & 0x7fffffff;
    most = magnitude > most ? magnitude : most;
  }
  int32_t bits = fold_lanes<int32_t>(
      most, [](i32 a, i32 b) __attribute__((always_inline)) { return a > b ? a : b; });
  if (bits >= kInfinity) bits = 0x7fc00000;
  __builtin_memcpy(scale, &bits, sizeof bits);
  const i32 above = i32{} + (S::kLargest << S::kShift) - bits;
  const auto coded = [&](int64_t i) __attribute__((always_inline)) {
    const i32 own = load<i32>(reinterpret_cast<const int32_t*>(x + i));
    i32 steps = (own & 0x7fffffff) + above + (i32)(random(at + i) << (S::kShift - 16));
    steps = steps < 0 ? i32{} : steps;
    return narrowed8(S::code(steps >> S::kShift, own));
  };
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, coded(i));
  if (i == n) return;
  int8_t last[kWidth];
  store(last, coded(i));
  __builtin_memcpy(y + i, last, static_cast<size_t>(n - i));
}

template <class S>
ALWAYS_INLINE void load_blocks(const int8_t* y, const float* scales, int64_t n, float* x) {
  for (int64_t at = 0; at < n; at += kScaleBlock)
    load_block<S>(y + at, *scales++, n - at < kScaleBlock ? n - at : kScaleBlock, x + at);
}

template <class S>
ALWAYS_INLINE void store_blocks(float* x, int64_t n, int8_t* y, float* scales,
                                const Random& random) {
  for (int64_t at = 0; at < n; at += kScaleBlock)
    store_block<S>(x + at, n - at < kScaleBlock ? n - at : kScaleBlock, y + at, scales++, random,
                   at);
}

}  // namespace gradstep::GRADSTEP_ISA::storage
