// PReLU and maxout, which know channels, and the squared error.
#pragma once
#include "activation_kernels.hpp"
#include "elementwise.hpp"
#include "softmax.hpp"

namespace gradstep::GRADSTEP_ISA {

template <class T>
static void mse(int64_t n, const void* prediction, const void* target, void* gradient, double scale,
                double* blocks) {
  typedef typename Native<T>::type V;
  const T factor = scale;
  sum_row<true, T>(n, static_cast<const T*>(prediction), static_cast<const T*>(target),
                   static_cast<T*>(gradient), 0, blocks,
                   [&](const T* a, const T* b, T* out) __attribute__((always_inline)) {
                     T difference[kSumLanes];
                     for (int64_t i = 0; i < kSumLanes; i += kLanes<V, T>) {
                       const V d = load<V>(a + i) - load<V>(b + i);
                       store(difference + i, d);
                       store(out + i, d * factor);
                     }
                     Row row = Row::of(difference);
                     for (int i = 0; i < Row::kVectors; ++i) row.v[i] = row.v[i] * row.v[i];
                     return row;
                   });
}

static double total(const double* x, int64_t n) {
  double sum = 0;
  for (int64_t at = 0; at < n; at += kSumBlock) {
    double block;
    sum_row<false, double>(n - at < kSumBlock ? n - at : kSumBlock, x + at, x + at, nullptr, 0,
                           &block,
                           [](const double* a, const double*, double*)
                               __attribute__((always_inline)) { return Row::of(a); });
    sum += block;
  }
  return sum;
}

template <class V, class W>
ALWAYS_INLINE V prelu_value(V x, W weight) {
  return x > V{} ? x : x * weight;
}

// He et al. 2015 (arXiv:1502.01852).
template <class T>
static void prelu(const PreluJob& job, int64_t begin, int64_t end) {
  const int64_t width = job.inner == 1 ? job.channels : job.inner;
  const T* weights = static_cast<const T*>(job.weight);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(job.x) + row * width;
    T* y = static_cast<T*>(job.y) + row * width;
    const T* weight = job.inner == 1 ? weights : weights + row % job.channels;
    sweep<T>(width, [&](auto type, int64_t i) __attribute__((always_inline)) {
      typedef typename decltype(type)::type V;
      const V w = job.inner == 1 ? load<V>(weight + i) : splat<V>(*weight);
      store(y + i, prelu_value(load<V>(x + i), w));
    });
  }
}

// Channels innermost: rows [begin, end) of channels, summed down the rows.
template <class T>
static void prelu_backward_rows(const PreluJob& job, int64_t begin, int64_t end, double* partials) {
  for (int64_t c = 0; c < job.channels; ++c) partials[c] = 0;
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(job.x) + row * job.channels;
    const T* dy = static_cast<const T*>(job.dy) + row * job.channels;
    T* dx = static_cast<T*>(job.y) + row * job.channels;
    T terms[2][64];  // x and dy where x <= 0
    for (int64_t at = 0; at < job.channels; at += 64) {
      const int64_t n = job.channels - at < 64 ? job.channels - at : 64;
      sweep<T>(n, [&](auto type, int64_t i) __attribute__((always_inline)) {
        typedef typename decltype(type)::type V;
        const V v = load<V>(x + at + i), g = load<V>(dy + at + i);
        store(terms[0] + i, v > V{} ? V{} : v);
        store(terms[1] + i, v > V{} ? V{} : g);
        store(dx + at + i, v > V{} ? g : g * load<V>(static_cast<const T*>(job.weight) + at + i));
      });
      sweep<double>(n, [&](auto type, int64_t i) __attribute__((always_inline)) {
        typedef typename decltype(type)::type W;
        store(partials + at + i,
              load<W>(partials + at + i) + widened<W>(terms[0] + i) * widened<W>(terms[1] + i));
      });
    }
  }
}

// partials: for each kChannelRows rows of channels one sum a channel; else for each row of `inner`
// elements one sum a block.
template <class T>
static void prelu_backward(const PreluJob& job, int64_t begin, int64_t end) {
  if (job.inner == 1) {
    for (int64_t row = begin; row < end; row += kChannelRows)
      prelu_backward_rows<T>(job, row, end - row < kChannelRows ? end : row + kChannelRows,
                             job.partials + row / kChannelRows * job.channels);
    return;
  }
  typedef typename Native<T>::type V;
  const int64_t n = job.inner, blocks = (n + kSumBlock - 1) / kSumBlock;
  for (int64_t row = begin; row < end; ++row) {
    const T weight = static_cast<const T*>(job.weight)[row % job.channels];
    sum_row<true, T>(n, static_cast<const T*>(job.x) + row * n,
                     static_cast<const T*>(job.dy) + row * n, static_cast<T*>(job.y) + row * n, 0,
                     job.partials + row * blocks,
                     [&](const T* x, const T* dy, T* dx) __attribute__((always_inline)) {
                       T terms[2][kSumLanes];
                       for (int64_t i = 0; i < kSumLanes; i += kLanes<V, T>) {
                         const V v = load<V>(x + i), g = load<V>(dy + i);
                         store(terms[0] + i, v > V{} ? V{} : v);
                         store(terms[1] + i, v > V{} ? V{} : g);
                         store(dx + i, v > V{} ? g : g * weight);
                       }
                       Row row_sum = Row::of(terms[0]);
                       const Row other = Row::of(terms[1]);
                       for (int i = 0; i < Row::kVectors; ++i)
                         row_sum.v[i] = row_sum.v[i] * other.v[i];
                       return row_sum;
                     });
  }
}

// Pieces side by side in memory.
template <class T>
static void maxout_beside(const MaxoutJob& job, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(job.x) + begin * job.pieces;
  T* y = static_cast<T*>(job.y);
  for (int64_t row = begin; row < end; ++row, x += job.pieces) {
    T most = x[0];
    for (int64_t k = 1; k < job.pieces; ++k) most = ((x[k] > most) | (x[k] != x[k])) ? x[k] : most;
    y[row] = most;
  }
}

// Goodfellow et al. 2013 (arXiv:1302.4389). NaN wins, as in numpy.max.
template <class T>
static void maxout(const MaxoutJob& job, int64_t begin, int64_t end) {
  const int64_t n = job.inner, pieces = job.pieces;
  if (n == 1) return maxout_beside<T>(job, begin, end);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(job.x) + row * pieces * n;
    T* y = static_cast<T*>(job.y) + row * n;
    sweep<T>(n, [&](auto type, int64_t i) __attribute__((always_inline)) {
      typedef typename decltype(type)::type V;
      V most = load<V>(x + i);
      for (int64_t k = 1; k < pieces; ++k) {
        const V v = load<V>(x + k * n + i);
        most = ((v > most) | (v != v)) ? v : most;
      }
      store(y + i, most);
    });
  }
}

// The first of the largest gets dy, the first NaN where there is one.
template <class T>
static void maxout_backward(const MaxoutJob& job, int64_t begin, int64_t end) {
  const int64_t n = job.inner, pieces = job.pieces;
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(job.x) + row * pieces * n;
    const T* dy = static_cast<const T*>(job.dy) + row * n;
    T* dx = static_cast<T*>(job.y) + row * pieces * n;
    sweep<T>(n, [&](auto type, int64_t i) __attribute__((always_inline)) {
      typedef typename decltype(type)::type V;
      V most = load<V>(x + i);
      for (int64_t k = 1; k < pieces; ++k) {
        const V v = load<V>(x + k * n + i);
        most = ((v > most) | (v != v)) ? v : most;
      }
      V left = load<V>(dy + i), given = V{};
      for (int64_t k = 0; k < pieces; ++k) {
        const V v = load<V>(x + k * n + i);
        const auto wins = ((v == most) | ((v != v) & (most != most))) & (given == V{});
        store(dx + k * n + i, wins ? left : V{});
        given = wins ? splat<V>(1) : given;
      }
    });
  }
}

}  // namespace gradstep::GRADSTEP_ISA
