// An activation of x + bias, and its backward with the sums over rows that the bias needs.
#pragma once
#include "isa/activation/table.hpp"
#include "isa/elementwise.hpp"
#include "isa/reduce.hpp"

namespace gradstep::GRADSTEP_ISA::activation {

// Columns whose sums stay in registers.
inline constexpr int64_t kStrip = 32;

template <class T, template <class> class F>
static void biased(double parameter, const BiasedJob& job, int64_t begin, int64_t end) {
  const F<T> f(parameter);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * job.columns;
    fill(
        static_cast<T*>(job.y) + at, job.columns, false,
        [&](auto x, auto bias) __attribute__((always_inline)) { return f.forward(x + bias); },
        static_cast<const T*>(job.x) + at, static_cast<const T*>(job.bias));
  }
}

// dx from dy and from what was saved: y, or x where there is a bias.
template <bool kFromX, class F, class V, class T>
ALWAYS_INLINE V biased_gradient(const F& f, V dy, V saved, V bias, T scale) {
  if constexpr (!kFromX) return f.backward(dy * scale, saved);
  const V x = saved + bias;
  if constexpr (F::kReadsX) return f.backward(dy * scale, x);
  return f.backward(dy * scale, f.forward(x));
}

// A whole strip of columns from `first` on, down all rows.
template <bool kFromX, class T, class F>
ALWAYS_INLINE void biased_strip(const F& f, const BiasedJob& job, int64_t first) {
  typedef typename Native<T>::type V;
  constexpr int64_t kWidth = kLanes<V, T>, kVectors = kStrip / kWidth;
  constexpr int64_t kDoubles = kStrip / Row::kWidth, kPer = kDoubles / kVectors;
  const T *dy = static_cast<const T*>(job.dy) + first, *x = static_cast<const T*>(job.x) + first;
  const T scale = job.scale;
  T* dx = static_cast<T*>(job.y) + first;
  V bias[kVectors];
  for (int64_t j = 0; j < kVectors; ++j)
    bias[j] = kFromX ? load<V>(static_cast<const T*>(job.bias) + first + j * kWidth) : V{};
  f64 total[kDoubles] = {};
  for (int64_t row = 0; row < job.rows;) {
    const int64_t stop = job.rows - row < kChannelRows ? job.rows : row + kChannelRows;
    f64 sum[kDoubles] = {};
    for (; row < stop; ++row) {
      const int64_t at = row * job.columns;
      for (int64_t j = 0; j < kVectors; ++j) {
        const int64_t i = at + j * kWidth;
        const V g = biased_gradient<kFromX>(f, load<V>(dy + i), load<V>(x + i), bias[j], scale);
        store(dx + i, g);
        f64 wide[kPer];
        widen(g, wide);
        for (int64_t k = 0; k < kPer; ++k) sum[j * kPer + k] = sum[j * kPer + k] + wide[k];
      }
    }
    for (int64_t k = 0; k < kDoubles; ++k) total[k] = total[k] + sum[k];
  }
  for (int64_t k = 0; k < kDoubles; ++k) store(job.sums + first + k * Row::kWidth, total[k]);
}

// The n columns from `first` on, fewer than a strip: the same sums in the same order.
template <bool kFromX, class T, class F>
ALWAYS_INLINE void biased_rest(const F& f, const BiasedJob& job, int64_t first, int64_t n) {
  typedef typename Native<T>::type V;
  constexpr int64_t kWidth = kLanes<V, T>;
  const T *dy = static_cast<const T*>(job.dy) + first, *x = static_cast<const T*>(job.x) + first;
  const T* bias = static_cast<const T*>(job.bias) + (kFromX ? first : 0);
  const T scale = job.scale;
  T* dx = static_cast<T*>(job.y) + first;
  double* total = job.sums + first;
  for (int64_t c = 0; c < n; ++c) total[c] = 0;
  for (int64_t row = 0; row < job.rows;) {
    const int64_t stop = job.rows - row < kChannelRows ? job.rows : row + kChannelRows;
    double sum[kStrip] = {};
    for (; row < stop; ++row) {
      const int64_t at = row * job.columns;
      for (int64_t j = 0; j < n; j += kWidth) {
        const int64_t count = n - j < kWidth ? n - j : kWidth;
        if (count == kWidth) {
          const V b = kFromX ? load<V>(bias + j) : V{};
          const V g =
              biased_gradient<kFromX>(f, load<V>(dy + at + j), load<V>(x + at + j), b, scale);
          store(dx + at + j, g);
        } else {
          const V b = kFromX ? load_first<V>(bias + j, count, T{}) : V{};
          const V g = biased_gradient<kFromX>(f, load_first<V>(dy + at + j, count, T{}),
                                              load_first<V>(x + at + j, count, T{}), b, scale);
          store_first(dx + at + j, count, g);
        }
      }
      for (int64_t c = 0; c < n; ++c) sum[c] += dx[at + c];
    }
    for (int64_t c = 0; c < n; ++c) total[c] += sum[c];
  }
}

template <bool kFromX, class T, class F>
ALWAYS_INLINE void biased_columns(const F& f, const BiasedJob& job, int64_t begin, int64_t end) {
  int64_t first = begin;
  for (; first + kStrip <= end; first += kStrip) biased_strip<kFromX, T>(f, job, first);
  if (first < end) biased_rest<kFromX, T>(f, job, first, end - first);
}

template <class T, template <class> class F>
static void biased_backward(double parameter, const BiasedJob& job, int64_t begin, int64_t end) {
  const F<T> f(parameter);
  if (job.bias)
    biased_columns<true, T>(f, job, begin, end);
  else
    biased_columns<false, T>(f, job, begin, end);
}

}  // namespace gradstep::GRADSTEP_ISA::activation
