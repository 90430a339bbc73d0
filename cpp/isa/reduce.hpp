// Sums with one order on every ISA: inside a block of kSumBlock elements, element i goes to virtual
// lane i % 16, in double; the lanes are then folded in halves (8, 4, 2, 1). The last row of a block
// is filled with zeros. Blocks are combined by the caller, in index order.
#pragma once
#include "isa/elementwise.hpp"
#include "isa/table.hpp"

namespace gradstep::GRADSTEP_ISA {

// W consecutive elements in double.
template <class W>
ALWAYS_INLINE W widened(const float* x) {
  if constexpr (sizeof(W) == sizeof(double))
    return *x;
  else
    return load_f64(x);
}
template <class W>
ALWAYS_INLINE W widened(const double* x) {
  return load<W>(x);
}

inline constexpr int64_t kSumLanes = 16;

// Sixteen doubles as vectors of the native width.
struct Row {
  static constexpr int64_t kWidth = kBytes / 8, kVectors = kSumLanes / kWidth;
  f64 v[kVectors];

  template <class T>
  static ALWAYS_INLINE Row of(const T* x) {
    Row row;
    for (int i = 0; i < kVectors; ++i) row.v[i] = load_f64(x + i * kWidth);
    return row;
  }
  static ALWAYS_INLINE Row filled(double value) {
    Row row;
    for (int i = 0; i < kVectors; ++i) row.v[i] = f64{} + value;
    return row;
  }
  // combine: of two vectors.
  template <class Combine>
  ALWAYS_INLINE double fold(const Combine& combine) const {
    Row all = *this;
    for (int64_t half = kVectors / 2; half > 0; half /= 2)
      for (int64_t i = 0; i < half; ++i) all.v[i] = combine(all.v[i], all.v[i + half]);
    return fold_lanes<double>(all.v[0], combine);
  }
};

// The values of v in double, in one or two vectors. (Through memory they would wait for the store.)
ALWAYS_INLINE void widen(f64 v, f64* to) { to[0] = v; }
ALWAYS_INLINE void widen(f32 v, f64* to) {
#if defined(__AVX512F__)
  to[0] = (f64)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
  to[1] = (f64)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
#elif defined(__AVX2__)
  to[0] = (f64)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
  to[1] = (f64)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
#elif defined(__SSE2__)
  to[0] = (f64)_mm_cvtps_pd((__m128)v);
  to[1] = (f64)_mm_cvtps_pd(_mm_movehl_ps((__m128)v, (__m128)v));
#elif defined(__aarch64__)
  to[0] = (f64)vcvt_f64_f32(vget_low_f32((float32x4_t)v));
  to[1] = (f64)vcvt_high_f64_f32((float32x4_t)v);
#else
  float x[kBytes / 4];
  store(x, v);
  to[0] = load_f64(x);
  to[1] = load_f64(x + Row::kWidth);
#endif
}

// Values that are added up side by side.
template <class V, int kCount>
struct Terms {
  V v[kCount];
  friend ALWAYS_INLINE Terms operator+(const Terms& a, const Terms& b) {
    Terms sum;
    for (int i = 0; i < kCount; ++i) sum.v[i] = a.v[i] + b.v[i];
    return sum;
  }
};

// term(first) + ... + term(first + kTerms - 1), halves added to halves.
template <int kTerms, class Term>
ALWAYS_INLINE auto in_pairs(const Term& term, int first = 0) {
  if constexpr (kTerms == 1)
    return term(first);
  else
    return in_pairs<kTerms / 2>(term, first) + in_pairs<kTerms / 2>(term, first + kTerms / 2);
}

inline constexpr int kPairedRows = 16;

// Sums at the speed of T, with at most four roundings to T each: 256 elements are 16 rows of the 16
// lanes; rows are added in pairs, pairs in pairs, and so on, as T, and what they come to in a lane
// is added to that lane's double. At the end lanes are folded in halves.
// term(i, count, parts of x...) gives Terms<V, kCount> of elements [i, i + count), count being the
// width of V but at the end, where the other lanes have `rest` for x and must come to 0.
template <int kCount, class T, class Term, class... X>
ALWAYS_INLINE void paired_sums(int64_t n, T rest, double* sums, const Term& term, const X*... x) {
  typedef typename Native<T>::type V;
  typedef Terms<V, kCount> Sum;
  constexpr int kRows = kPairedRows, kWidth = kLanes<V, T>, kParts = kWidth / Row::kWidth;
  constexpr int64_t kBlock = kRows * kSumLanes;
  Row lanes[kCount];
  for (Row& row : lanes) row = Row::filled(0);
  const auto add = [&](int part, const Sum& sum) __attribute__((always_inline)) {
    for (int c = 0; c < kCount; ++c) {
      f64 wide[kParts];
      widen(sum.v[c], wide);
      for (int i = 0; i < kParts; ++i) {
        f64& lane = lanes[c].v[part * kParts + i];
        lane = lane + wide[i];
      }
    }
  };
  int64_t at = 0;
  for (; at + kBlock <= n; at += kBlock)
    for (int part = 0; part < kSumLanes / kWidth; ++part)
      add(part, in_pairs<kRows>([&](int row) __attribute__((always_inline)) {
            const int64_t i = at + row * kSumLanes + part * kWidth;
            return term(i, kWidth, load<V>(x + i)...);
          }));
  for (int part = 0; at < n && part < kSumLanes / kWidth; ++part) {
    Sum quarter[4] = {};
    for (int q = 0; q < 4 && at + q * kBlock / 4 < n; ++q)
      quarter[q] = in_pairs<kRows / 4>([&](int row) __attribute__((always_inline)) {
        const int64_t i = at + q * kBlock / 4 + row * kSumLanes + part * kWidth;
        if (i + kWidth <= n) return term(i, kWidth, load<V>(x + i)...);
        return i < n ? term(i, n - i, load_first<V>(x + i, n - i, rest)...) : Sum{};
      });
    add(part, (quarter[0] + quarter[1]) + (quarter[2] + quarter[3]));
  }
  for (int c = 0; c < kCount; ++c) sums[c] = lanes[c].fold(Add{});
}

// The first n of 16 elements, `rest` in place of the others.
template <class T>
ALWAYS_INLINE void load_row(T* to, const T* from, int64_t n, T rest) {
  typedef typename Native<T>::type V;
  constexpr int64_t kWidth = kLanes<V, T>;
  for (int64_t i = 0; i < kSumLanes; i += kWidth) {
    const int64_t left = n - i < 0 ? 0 : n - i;
    store(to + i, left >= kWidth ? load<V>(from + i) : load_first<V>(from + i, left, rest));
  }
}

// The first n of 16 elements.
template <class T>
ALWAYS_INLINE void store_row(T* to, const T* from, int64_t n) {
  typedef typename Native<T>::type V;
  constexpr int64_t kWidth = kLanes<V, T>;
  for (int64_t i = 0; i < kSumLanes && i < n; i += kWidth) {
    if (n - i >= kWidth)
      store(to + i, load<V>(from + i));
    else
      store_first(to + i, n - i, load<V>(from + i));
  }
}

// body(row) for the rows of a block of n elements, the last one filled with `fill`.
template <class T, class Body>
ALWAYS_INLINE void rows(const T* x, int64_t n, T fill, const Body& body) {
  int64_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes) body(Row::of(x + i));
  if (i == n) return;
  T last[kSumLanes];
  load_row(last, x + i, n - i, fill);
  body(Row::of(last));
}

// For each block of n elements, the sum of term(a, b, out), a Row of 16; kWrites: it fills out too,
// which otherwise is null. Beyond the end a is `fill`, b is 0.
template <bool kWrites, class T, class Term>
ALWAYS_INLINE void sum_row(int64_t n, const T* a, const T* b, T* out, T fill, double* sums,
                           const Term& term) {
  for (int64_t at = 0; at < n; at += kSumBlock, ++sums) {
    const int64_t end = n - at < kSumBlock ? n : at + kSumBlock;
    Row sum = Row::filled(0);
    const auto add = [&](const Row& row) __attribute__((always_inline)) {
      for (int i = 0; i < Row::kVectors; ++i) sum.v[i] = sum.v[i] + row.v[i];
    };
    int64_t i = at;
    for (; i + kSumLanes <= end; i += kSumLanes)
      add(term(a + i, b + i, kWrites ? out + i : nullptr));
    if (i < end) {
      T last_a[kSumLanes], last_b[kSumLanes], last_out[kSumLanes];
      load_row(last_a, a + i, end - i, fill);
      load_row(last_b, b + i, end - i, T{});
      add(term(last_a, last_b, kWrites ? last_out : nullptr));
      if constexpr (kWrites) store_row(out + i, last_out, end - i);
    }
    *sums = sum.fold(Add{});
  }
}

}  // namespace gradstep::GRADSTEP_ISA
