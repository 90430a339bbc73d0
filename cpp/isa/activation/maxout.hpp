// Maxout: the largest of some pieces of a channel.
#pragma once
#include "isa/activation/table.hpp"
#include "isa/elementwise.hpp"
#include "isa/math.hpp"

namespace gradstep::GRADSTEP_ISA::activation {

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

}  // namespace gradstep::GRADSTEP_ISA::activation
