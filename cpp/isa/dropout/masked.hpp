// Inverted dropout (Srivastava et al. 2014) whose mask is a function of (seed, offset, element).
// Bits are drawn and used in registers; no mask goes to memory.
#pragma once
#include "isa/dropout/table.hpp"
#include "isa/elementwise.hpp"
#include "isa/philox.hpp"

namespace gradstep::GRADSTEP_ISA::dropout {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bits are stored as bytes");
static_assert(kTile == kDropoutTile && kTileBlocks == kDropoutTileBlocks);

// What becomes of a value that is kept, and what stands for one that is not.
template <class T>
struct Scale {
  T scale;
  explicit Scale(const DropoutRule& rule) : scale(rule.scale) {}
  template <class V>
  ALWAYS_INLINE V kept(V x) const {
    return x * scale;
  }
  template <class V>
  ALWAYS_INLINE V dropped() const {
    return V{};
  }
};

// Alpha dropout (Klambauer et al. 2017): keeps the mean 0 and the variance 1 of SELU's outputs.
template <class T>
struct Alpha {
  T scale, shift, value;
  explicit Alpha(const DropoutRule& rule)
      : scale(rule.scale), shift(rule.shift), value(rule.dropped) {}
  template <class V>
  ALWAYS_INLINE V kept(V x) const {
    return x * scale + shift;
  }
  template <class V>
  ALWAYS_INLINE V dropped() const {
    return V{} + value;
  }
};

// row(at, keep) for the vectors of a tile: `keep` is the mask of elements [at, at + lanes of i32).
template <class Row>
ALWAYS_INLINE void tile_rows(const Philox<>& philox, uint64_t first, uint32_t threshold,
                             const Row& row) {
  const i32 limit = i32{} + static_cast<int32_t>(threshold);
  for (int lane = 0; lane < 16; lane += kBytes / 4) {
    u32 pair[2];
    philox(static_cast<uint32_t>(first / 8) + lane / 2, pair);
    for (int i = 0; i < 2; ++i) {
      row(32 * i + lane, (i32)(pair[i] & 0xffffu) >= limit);
      row(32 * i + 16 + lane, (i32)(pair[i] >> 16) >= limit);
    }
  }
}

// body(philox, at) for the tiles at 0, 64, ... of n elements from `first` on; n is a multiple
// of 64.
template <class Body>
ALWAYS_INLINE void tiles(const DropoutRule& rule, uint64_t first, int64_t n, const Body& body) {
  constexpr uint64_t kSpan = uint64_t{8} << 32;  // the elements that share a high word
  for (int64_t at = 0; at < n;) {
    const uint64_t begin = first + at, left = kSpan - begin % kSpan;
    const Philox<> philox(rule.seed, rule.offset, static_cast<uint32_t>(begin / kSpan));
    const int64_t stop = left < static_cast<uint64_t>(n - at) ? at + static_cast<int64_t>(left) : n;
    for (; at < stop; at += kTile) body(philox, at);
  }
}

template <class F>
ALWAYS_INLINE void apply(const F& f, const float* x, float* y, i32 keep) {
  store(y, select(keep, f.kept(load<f32>(x)), f.template dropped<f32>()));
}

template <class F>
ALWAYS_INLINE void apply(const F& f, const double* x, double* y, i32 keep) {
  i64 wide[2];
  widen_mask(keep, wide);
  for (int i = 0; i < 2; ++i, x += kBytes / 8, y += kBytes / 8)
    store(y, select(wide[i], f.kept(load<f64>(x)), f.template dropped<f64>()));
}

template <class T>
ALWAYS_INLINE void prefetch_tile(const T* x) {
  for (int64_t i = 0; i < kTile; i += 64 / sizeof(T)) prefetch(x, 4096 / sizeof(T) + i);
}

template <class T, template <class> class F>
__attribute__((noinline)) static void apply_tiles(const DropoutRule& rule, uint64_t first,
                                                  int64_t n, const T* x, T* y) {
  const F<T> f(rule);
  tiles(rule, first, n, [&](const Philox<>& philox, int64_t i) __attribute__((always_inline)) {
    prefetch_tile(x + i);
    tile_rows(philox, first + i, rule.threshold,
              [&](int at, i32 keep)
                  __attribute__((always_inline)) { apply(f, x + i + at, y + i + at, keep); });
  });
}

template <class T, template <class> class F>
static void apply_range(const DropoutRule& rule, uint64_t first, int64_t n, const void* x,
                        void* y) {
  const T* in = static_cast<const T*>(x);
  T* out = static_cast<T*>(y);
  const int64_t whole = n / kTile * kTile;
  apply_tiles<T, F>(rule, first, whole, in, out);
  if (whole == n) return;
  T last[kTile] = {};
  __builtin_memcpy(last, in + whole, (n - whole) * sizeof(T));
  apply_tiles<T, F>(rule, first + whole, kTile, last, last);
  __builtin_memcpy(out + whole, last, (n - whole) * sizeof(T));
}

// Bit i is element first + i of the stream.
static uint64_t tile_bits(const DropoutRule& rule, const Philox<>& philox, uint64_t first) {
  uint64_t bits = 0;
  tile_rows(philox, first, rule.threshold, [&](int at, i32 keep) __attribute__((always_inline)) {
    bits |= uint64_t{mask_bits(keep)} << at;
  });
  return bits;
}

// Bit i of `bits`, of the low eight, as byte i.
ALWAYS_INLINE uint64_t spread(uint64_t bits) {
  const uint64_t apart = (bits & 255) * 0x0101010101010101u & 0x8040201008040201u;
  return (apart + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
}

static void keep_bytes(const DropoutRule& rule, uint64_t first, int64_t n, uint8_t* keep) {
  const int64_t padded = (n + kTile - 1) / kTile * kTile;
  tiles(rule, first, padded, [&](const Philox<>& philox, int64_t i) {
    const uint64_t bits = tile_bits(rule, philox, first + i);
    uint64_t bytes[8];
    for (int j = 0; j < 8; ++j) bytes[j] = spread(bits >> 8 * j);
    __builtin_memcpy(keep + i, bytes, n - i < kTile ? n - i : kTile);
  });
}

static void keep_bits(const DropoutRule& rule, uint64_t first, int64_t n, uint8_t* keep) {
  const int64_t padded = (n + kTile - 1) / kTile * kTile;
  tiles(rule, first, padded, [&](const Philox<>& philox, int64_t i) {
    uint64_t bits = tile_bits(rule, philox, first + i);
    if (n - i < kTile) bits &= (uint64_t{1} << (n - i)) - 1;
    __builtin_memcpy(keep + i / 8, &bits, n - i < kTile ? (n - i + 7) / 8 : 8);
  });
}

// A mask for the lanes of V from one byte each, 1 or 0.
ALWAYS_INLINE i32 load_mask(ValueType<f32>, const uint8_t* keep) { return -load_bytes32(keep); }
ALWAYS_INLINE i64 load_mask(ValueType<f64>, const uint8_t* keep) { return -load_bytes64(keep); }
template <class T>
ALWAYS_INLINE bool load_mask(ValueType<T>, const uint8_t* keep) {
  return *keep != 0;
}

template <class T>
static void scale_by_bytes(double scale, int64_t n, const void* x, const uint8_t* keep, void* y) {
  const T factor = static_cast<T>(scale);
  sweep<T>(n, [&](auto type, int64_t i) __attribute__((always_inline)) {
    typedef typename decltype(type)::type V;
    const V scaled = load<V>(static_cast<const T*>(x) + i) * factor;
    store(static_cast<T*>(y) + i, select(load_mask(type, keep + i), scaled, V{}));
  });
}

template <class T>
static void scale_all(double scale, int64_t n, const void* x, void* y) {
  const T factor = static_cast<T>(scale);
  sweep<T>(n, [&](auto type, int64_t i) __attribute__((always_inline)) {
    typedef typename decltype(type)::type V;
    store(static_cast<T*>(y) + i, load<V>(static_cast<const T*>(x) + i) * factor);
  });
}

template <class T>
static void copy_past_cache(int64_t n, const void* x, void* y) {
  fill_ahead(
      static_cast<T*>(y), n, true, [](auto v) __attribute__((always_inline)) { return v; },
      static_cast<const T*>(x));
}

static void fence() { stream_fence(); }

static void philox_words(uint64_t seed, uint64_t offset, uint64_t tile, uint32_t (*words)[4]) {
  const Philox<> philox(seed, offset, static_cast<uint32_t>(tile >> 29));
  for (int block = 0; block < kTileBlocks; block += Philox<>::kWidth) {
    u32 pair[2];
    philox(static_cast<uint32_t>(tile) * kTileBlocks + block, pair);
    for (int i = 0; i < 2 * Philox<>::kWidth; ++i)
      for (int j = 0; j < 2; ++j) words[block + i / 2][2 * j + i % 2] = pair[j][i];
  }
}

}  // namespace gradstep::GRADSTEP_ISA::dropout
