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

// For each block of n elements, the sum of term(a, b, out), a Row of 16; kWrites: it fills out too.
// Beyond the end a is `fill`, b is 0.
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
    for (; i + kSumLanes <= end; i += kSumLanes) add(term(a + i, b + i, out + i));
    if (i < end) {
      T last_a[kSumLanes], last_b[kSumLanes], last_out[kSumLanes];
      load_row(last_a, a + i, end - i, fill);
      load_row(last_b, b + i, end - i, T{});
      add(term(last_a, last_b, last_out));
      if constexpr (kWrites) store_row(out + i, last_out, end - i);
    }
    *sums = sum.fold(Add{});
  }
}

}  // namespace gradstep::GRADSTEP_ISA
