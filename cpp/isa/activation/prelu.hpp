// PReLU: a slope for each channel.
#pragma once
#include "isa/activation/table.hpp"
#include "isa/reduce.hpp"

namespace gradstep::GRADSTEP_ISA::activation {

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

}  // namespace gradstep::GRADSTEP_ISA::activation
