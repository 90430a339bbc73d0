// Sums with one order on every ISA: inside a block of kSumBlock elements, element i goes to virtual
// lane i % 16, in double; the lanes are then folded in halves (8, 4, 2, 1). The last row of a block
// is filled with zeros. Blocks are combined by the caller, in index order.
#pragma once
#include "elementwise.hpp"

namespace gradstep::GRADSTEP_ISA {

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

template <class T>
static void sum_squares(const void* data, int64_t n, double* blocks) {
  const T* x = static_cast<const T*>(data);
  for (int64_t at = 0; at < n; at += kSumBlock, ++blocks) {
    Row sum = Row::filled(0);
    rows<T>(x + at, n - at < kSumBlock ? n - at : kSumBlock, 0,
            [&](const Row& row) __attribute__((always_inline)) {
              for (int i = 0; i < Row::kVectors; ++i) sum.v[i] = sum.v[i] + row.v[i] * row.v[i];
            });
    *blocks = sum.fold(Add{});
  }
}

// Elements that are not finite take no part in min, max and the sums: the last row is filled with
// NaN, and the filling taken off the count.
template <class T>
static BlockSummary summarize_block(const T* x, int64_t n) {
  const double inf = __builtin_inf();
  Row low = Row::filled(inf), high = Row::filled(-inf), sum = Row::filled(0), squares = sum;
  i64 nonfinite = {};
  rows<T>(x, n, static_cast<T>(__builtin_nan("")),
          [&](const Row& row) __attribute__((always_inline)) {
            for (int i = 0; i < Row::kVectors; ++i) {
              const f64 v = row.v[i];
              const i64 finite = (i64)((v - v) == f64{});
              const f64 value = finite ? v : f64{};
              const f64 least = finite ? v : f64{} + inf, most = finite ? v : f64{} - inf;
              low.v[i] = least < low.v[i] ? least : low.v[i];
              high.v[i] = most > high.v[i] ? most : high.v[i];
              sum.v[i] = sum.v[i] + value;
              squares.v[i] = squares.v[i] + value * value;
              nonfinite += finite + 1;
            }
          });
  const auto smaller = [](f64 a, f64 b) __attribute__((always_inline)) { return b < a ? b : a; };
  const auto larger = [](f64 a, f64 b) __attribute__((always_inline)) { return b > a ? b : a; };
  BlockSummary result{low.fold(smaller), high.fold(larger), sum.fold(Add{}), squares.fold(Add{}),
                      -((kSumLanes - n % kSumLanes) % kSumLanes)};
  for (int i = 0; i < Row::kWidth; ++i) result.nonfinite += nonfinite[i];
  return result;
}

template <class T>
static void summarize(const void* data, int64_t n, BlockSummary* blocks) {
  const T* x = static_cast<const T*>(data);
  for (int64_t at = 0; at < n; at += kSumBlock)
    *blocks++ = summarize_block(x + at, n - at < kSumBlock ? n - at : kSumBlock);
}

}  // namespace gradstep::GRADSTEP_ISA
