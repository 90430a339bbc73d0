// Between the types that arrays are stored in and the float32 of the formulas, two vectors at a
// time: what is kept in 16 bits comes as the even and the odd elements of a run, which are the
// halves of 32-bit lanes, so that nothing crosses lanes. Rounds to nearest, halves to even, or,
// with random bits, up with the probability that is due (Gupta et al. 2015, arXiv:1502.02551);
// keeps subnormals, and makes one NaN of all. The same bits on every ISA.
#pragma once
#include "isa/elementwise.hpp"
#include "isa/philox.hpp"

namespace gradstep::GRADSTEP_ISA {

// Numbers of 16 bits, two in a lane.
template <>
struct Native<uint16_t> {
  typedef u32 type;
};

}  // namespace gradstep::GRADSTEP_ISA

namespace gradstep::GRADSTEP_ISA::storage {

// A run of kPair elements: 2 l in lane l of `even`, 2 l + 1 in lane l of `odd`.
struct Pair {
  f32 even, odd;
};
inline constexpr int kWidth = kBytes / 4, kPair = 2 * kWidth;

// A constant in all lanes, from memory: compilers would otherwise keep it in a general register and
// broadcast it in the loop, which costs the port that shuffles go through.
template <uint32_t kValue>
static constexpr uint32_t kHeld = kValue;
template <uint32_t kValue>
ALWAYS_INLINE u32 all() {
  const uint32_t* held = &kHeld<kValue>;
  asm("" : "+r"(held));
  return u32{} + *held;
}

ALWAYS_INLINE u32 chosen(i32 mask, u32 a, u32 b) { return (u32)(mask ? a : b); }
ALWAYS_INLINE i32 is_nan(f32 x) { return (i32)(x != x); }
// The bits of x, with one NaN for all; `other` where x is a number.
ALWAYS_INLINE u32 canonical(f32 x, u32 other) {
  return chosen(is_nan(x), all<0x7fc00000>(), other);
}

template <std::size_t... kLane>
ALWAYS_INLINE Pair load_plain(const float* x, std::index_sequence<kLane...>) {
  const f32 a = load<f32>(x), b = load<f32>(x + kWidth);
  return {__builtin_shufflevector(a, b, 2 * kLane...),
          __builtin_shufflevector(a, b, 2 * kLane + 1 ...)};
}
template <std::size_t... kLane>
ALWAYS_INLINE void store_plain(float* x, Pair v, std::index_sequence<kLane...>) {
  store(x, __builtin_shufflevector(v.even, v.odd, kLane / 2 + kLane % 2 * kWidth...));
  store(x + kWidth,
        __builtin_shufflevector(v.even, v.odd, (kLane + kWidth) / 2 + kLane % 2 * kWidth...));
}
ALWAYS_INLINE Pair load_plain(const float* x) {
  return load_plain(x, std::make_index_sequence<kWidth>());
}
ALWAYS_INLINE void store_plain(float* x, Pair v) {
  store_plain(x, v, std::make_index_sequence<kWidth>());
}

// The upper halves of the bits of even elements, then those of odd ones, as they lie in memory.
ALWAYS_INLINE void store_upper(uint16_t* y, u32 even, u32 odd) {
  store(y, (even >> 16) | (odd & all<0xffff0000>()));
}

// Random words of a block: elements 2 l and 2 l + 1 share word l, which the arrays of a tensor turn
// each by their own number of bits, and odd elements by 16 more.
struct Random {
  const uint32_t* words;
  // The kBits bits of even (kOdd = 0) or odd elements from i on.
  template <int kTurn, int kBits, int kOdd>
  ALWAYS_INLINE u32 bits(int64_t i) const {
    constexpr int kLeft = (kTurn + 16 * kOdd) % 32;
    u32 word = load<u32>(words + i / 2);
    if constexpr (kLeft) word = word << kLeft | word >> (32 - kLeft);
    return word >> (32 - kBits);
  }
};

// The words of n elements from 64 tile on: philox.hpp with seven rounds, the words 0 and 1 of eight
// blocks one after the other, then their words 2 and 3. `words` has room for whole tiles.
ALWAYS_INLINE void random_words(uint64_t seed, uint64_t offset, int64_t tile, int64_t n,
                                uint32_t* words) {
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
        for (int i = 0; i < 2; ++i) store(words + at / 2 + 16 * i + lane, pair[i]);
      }
  }
}

// bfloat16: the upper half of a float32.
struct Bfloat16 {
  static ALWAYS_INLINE Pair load(const uint16_t* y) {
    const u32 v = GRADSTEP_ISA::load<u32>(y);
    return {(f32)(v << 16), (f32)(v & all<0xffff0000>())};
  }
  static ALWAYS_INLINE u32 nearest(f32 x) {
    return canonical(x, (u32)x + all<0x7fff>() + (((u32)x >> 16) & all<1>()));
  }
  static ALWAYS_INLINE void store(uint16_t* y, Pair x) {
    store_upper(y, nearest(x.even), nearest(x.odd));
  }
  // Up where r, of 0 to 65535, and what is cut off are at least 65536 together. Infinity stays, and
  // the largest numbers may become it, as they do by rounding.
  static ALWAYS_INLINE void store(uint16_t* y, Pair x, u32 even, u32 odd) {
    store_upper(y, canonical(x.even, (u32)x.even + even), canonical(x.odd, (u32)x.odd + odd));
  }
};

struct Float16 {
  static ALWAYS_INLINE f32 number(u32 h) {
    const u32 sign = (h & 0x8000u) << 16, magnitude = h & 0x7fffu;
    const u32 normal = (magnitude << 13) + (112u << 23);
    // Below 2^-14 a multiple of 2^-24; the integers are exact.
    const f32 small = __builtin_convertvector((i32)magnitude, f32) * 0x1p-24f;
    const u32 special = (magnitude << 13) | 0x7f800000u;
    u32 bits = chosen((i32)magnitude < 0x400, (u32)small, normal);
    bits = chosen((i32)magnitude >= 0x7c00, special, bits);
    return (f32)(bits | sign);
  }
  static ALWAYS_INLINE u32 half(f32 x) {
    const u32 bits = (u32)x, sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    const u32 normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // The sum with 1/2 rounds to multiples of 2^-24, which then stand at its end.
    const u32 small = (u32)((f32)magnitude + 0.5f) - 0x3f000000u;
    u32 half = chosen((i32)magnitude < 0x38800000, small, normal);
    half = chosen((i32)magnitude >= 0x477ff000, u32{} + 0x7c00u, half);  // from 65520 on
    return chosen(is_nan(x), u32{} + 0x7e00u, half | sign);
  }
  static ALWAYS_INLINE Pair load(const uint16_t* y) {
    const u32 v = GRADSTEP_ISA::load<u32>(y);
    return {number(v & 0xffffu), number(v >> 16)};
  }
  static ALWAYS_INLINE void store(uint16_t* y, Pair x) {
    GRADSTEP_ISA::store(y, half(x.even) | half(x.odd) << 16);
  }
};

// A float32 as a bfloat16 and the signed 16 bits that are missing: bits = (high << 16) + low. The
// high half is the nearest bfloat16, halves away from 0.
struct Split {
  static ALWAYS_INLINE Pair load(const uint16_t* high, const uint16_t* low) {
    const u32 h = GRADSTEP_ISA::load<u32>(high), l = GRADSTEP_ISA::load<u32>(low);
    return {(f32)((h << 16) + (u32)((i32)(l << 16) >> 16)),
            (f32)((h & all<0xffff0000>()) + (u32)((i32)l >> 16))};
  }
  static ALWAYS_INLINE void store(uint16_t* high, uint16_t* low, Pair x) {
    const u32 even = canonical(x.even, (u32)x.even), odd = canonical(x.odd, (u32)x.odd);
    store_upper(high, even + all<0x8000>(), odd + all<0x8000>());
    GRADSTEP_ISA::store(low, (even & all<0xffff>()) | odd << 16);
  }
};

// kPair bytes in the halves of 32-bit lanes, and back. (Intrinsics because GCC 12 takes
// __builtin_convertvector apart.)
typedef uint8_t u8 __attribute__((vector_size(kBytes / 2)));
typedef uint16_t u16 __attribute__((vector_size(kBytes)));

ALWAYS_INLINE u32 load_bytes(const uint8_t* y) {
#if defined(__AVX512F__)
  return (u32)_mm512_cvtepu8_epi16(load<__m256i>(y));
#elif defined(__AVX2__)
  return (u32)_mm256_cvtepu8_epi16(load<__m128i>(y));
#elif defined(__SSE2__)
  return (u32)_mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i*)y), _mm_setzero_si128());
#else
  return (u32) __builtin_convertvector(load<u8>(y), u16);
#endif
}

ALWAYS_INLINE void store_bytes(uint8_t* y, u32 v) {
#if defined(__AVX512F__)
  store(y, _mm512_cvtepi16_epi8((__m512i)v));
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi16((__m256i)v, (__m256i)v);
  store(y, _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
#elif defined(__SSE2__)
  _mm_storel_epi64((__m128i*)y, _mm_packus_epi16((__m128i)v, (__m128i)v));
#else
  store(y, __builtin_convertvector((u16)v, u8));
#endif
}

// Eight bits in blocks (Dettmers et al. 2022, arXiv:2110.02861) of kScaleBlock elements that share
// the largest magnitude among them as their scale. A code counts steps of float32 bits below it, so
// each octave has as many: 8 for signed numbers, 16 for those >= 0, over 16 octaves. What is less
// becomes 0, and the least code where all are >= 0, because these are divided by. Rounded with
// random bits, so that what changes by less than a step moves on average. Where a block holds
// something not finite, all of it becomes NaN: its codes are 0, as the sign of a NaN is not
// defined.
inline constexpr int32_t kInfinity = 0x7f800000;
// The bits of the least scale that codes count from: 2^-111. All codes but 0 then stand for numbers
// above 0, and 0 has code 0.
inline constexpr int32_t kLeastScale = 0x08000000;

template <int kStepBits, int kMostSteps>
struct Codes {
  static constexpr int kShift = kStepBits, kLargest = kMostSteps;
  // The bits of code 0 under a scale of these bits.
  static ALWAYS_INLINE int32_t origin(int32_t scale) {
    return (scale > kLeastScale ? scale : kLeastScale) - (kLargest << kShift);
  }

  // From codes as the upper bits of `steps` under the sign.
  static ALWAYS_INLINE f32 value(u32 steps, u32 codes, i32 origin) {
    return (f32)((steps & codes) == u32{} ? u32{} : steps + (u32)origin);
  }
};

// The sign above seven bits; that of 0 is lost.
struct Signed8 : Codes<20, 127> {
  static ALWAYS_INLINE Pair load(const uint8_t* y, i32 origin) {
    const u32 v = load_bytes(y), codes = all<0x07f00000>();
    const u32 steps = (v & all<0x007f007f>()) << 4 | (v & all<0x00800080>()) << 8;
    return {value(steps << 16, codes, origin), value(steps & all<0xffff0000>(), codes, origin)};
  }
  static ALWAYS_INLINE u32 code(i32 steps, i32 bits) {
    return (u32)(steps < 0 ? i32{} : steps) >> kShift | ((u32)bits >> 24 & all<0x80>());
  }
};

struct Positive8 : Codes<19, 255> {
  static ALWAYS_INLINE Pair load(const uint8_t* y, i32 origin) {
    const u32 steps = load_bytes(y) << 3, codes = all<0x07f80000>();
    return {value(steps << 16, codes, origin), value(steps & all<0xffff0000>(), codes, origin)};
  }
  static ALWAYS_INLINE u32 code(i32 steps, i32 bits) {
    const i32 one = (i32)all<1>(), magnitude = bits & (i32)all<0x7fffffff>();
    const i32 least = magnitude > one ? one : magnitude;
    steps = steps >> kShift;
    return (u32)(steps > least ? steps : least);
  }
};

// A block of n elements to y. x holds its pairs one after the other, even before odd, and room to
// whole pairs, which it fills with 0.
template <class S, int kTurn>
ALWAYS_INLINE void store_block(float* x, int64_t n, uint8_t* y, float* scale,
                               const Random& random) {
  for (int64_t i = n; i % kPair; ++i) x[i / kPair * kPair + i % 2 * kWidth + i % kPair / 2] = 0;
  const auto bits_at = [&](int64_t i) __attribute__((always_inline)) {
    return load<i32>(reinterpret_cast<const int32_t*>(x + i));
  };
  i32 most[2] = {};
  for (int64_t i = 0; i < n; i += kPair)
    for (int odd = 0; odd < 2; ++odd) {
      const i32 magnitude = bits_at(i + odd * kWidth) & 0x7fffffff;
      most[odd] = magnitude > most[odd] ? magnitude : most[odd];
    }
  const auto larger = [](i32 a, i32 b) __attribute__((always_inline)) { return a > b ? a : b; };
  int32_t bits = fold_lanes<int32_t>(larger(most[0], most[1]), larger);
  const bool finite = bits < kInfinity;
  if (!finite) bits = 0x7fc00000;
  __builtin_memcpy(scale, &bits, sizeof bits);
  if (!finite) {
    __builtin_memset(y, 0, static_cast<size_t>(n));
    return;
  }
  const i32 origin = i32{} + S::origin(bits);
  const auto coded = [&](i32 own, u32 random_bits) __attribute__((always_inline)) {
    return S::code((own & 0x7fffffff) - origin + (i32)random_bits, own);
  };
  for (int64_t i = 0; i < n; i += kPair) {
    const u32 codes = coded(bits_at(i), random.bits<kTurn, S::kShift, 0>(i)) |
                      coded(bits_at(i + kWidth), random.bits<kTurn, S::kShift, 1>(i)) << 16;
    if (i + kPair <= n) {
      store_bytes(y + i, codes);
    } else {
      uint8_t last[kPair];
      store_bytes(last, codes);
      __builtin_memcpy(y + i, last, static_cast<size_t>(n - i));
    }
  }
}

// x[i] = what y[i] stands for, S kept in 16 bits.
template <class S>
ALWAYS_INLINE void load_all(const uint16_t* y, int64_t n, float* x) {
  int64_t i = 0;
  for (; i + kPair <= n; i += kPair) store_plain(x + i, S::load(y + i));
  if (i == n) return;
  uint16_t last[kPair] = {};
  float values[kPair];
  __builtin_memcpy(last, y + i, static_cast<size_t>(n - i) * sizeof *y);
  store_plain(values, S::load(last));
  __builtin_memcpy(x + i, values, static_cast<size_t>(n - i) * sizeof *x);
}

// And back: y[i] stands for x[i].
template <class S>
ALWAYS_INLINE void store_all(const float* x, int64_t n, uint16_t* y, bool past_cache) {
  const auto kept = [](const float* from) __attribute__((always_inline)) {
    uint16_t to[kPair];
    S::store(to, load_plain(from));
    return GRADSTEP_ISA::load<u32>(to);
  };
  write(
      y, n, past_cache, [&](int64_t i) __attribute__((always_inline)) { return kept(x + i); },
      [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        float values[kPair] = {};
        __builtin_memcpy(values, x + i, static_cast<size_t>(count) * sizeof *x);
        const u32 last = kept(values);
        __builtin_memcpy(y + i, &last, static_cast<size_t>(count) * sizeof *y);
      });
}

}  // namespace gradstep::GRADSTEP_ISA::storage
