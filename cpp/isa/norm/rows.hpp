// Normalisation of rows that share weight and bias by element: layer norm and RMS norm.
#pragma once
#include "isa/norm/formulas.hpp"

namespace gradstep::GRADSTEP_ISA::norm {

template <class T>
ALWAYS_INLINE Affine<T> xhat_of_row(const NormRows& rows, int64_t r) {
  return {static_cast<const T*>(rows.shift)[r], static_cast<const T*>(rows.invstd)[r],
          static_cast<const T*>(rows.rest)[r]};
}

template <class T>
static void scale_rows(const void* from, void* to, const NormRows& rows, const void* weights,
                       const void* biases, bool past_cache) {
  const T* weight = static_cast<const T*>(weights);
  const T* bias = static_cast<const T*>(biases);
  for (int64_t r = rows.rows - 1; r >= 0; --r) {
    const Affine<T> xhat = xhat_of_row<T>(rows, r);
    const T* x = static_cast<const T*>(from) + r * rows.size;
    T* y = static_cast<T*>(to) + r * rows.size;
    const auto f = [&](auto value, auto w, auto b)
                       __attribute__((always_inline)) { return xhat(value) * w + b; };
    fill(y, rows.size, past_cache, f, x, weight, bias);
  }
  if (past_cache) stream_fence();
}

// Sums of w dy and of w dy (x - mean) over a row, by tiles of kNormTile elements.
template <class T>
static GradientSums row_sums(const T* dy, const T* x, const T* weight, int64_t size, double mean) {
  GradientSums all{0, 0};
  for (int64_t at = 0; at < size; at += kNormTile) {
    TwoRows sums = TwoRows::zero();
    parts<T>(
        size - at < kNormTile ? size - at : kNormTile, T{},
        [&](int i, int64_t, auto g, auto value, auto w) __attribute__((always_inline)) {
          const f64 wide = widened(w) * widened(g);
          sums.add(i, wide, wide * (widened(value) - mean));
        },
        dy + at, x + at, weight + at);
    all = {all.dy + total(sums.a), all.dy_x + total(sums.b)};
  }
  return all;
}

template <class T>
static void add_row(const T* dy, const T* x, int64_t size, double mean, double invstd,
                    double* dweight, double* dbias) {
  sweep<double>(size, [&](auto type, int64_t j) __attribute__((always_inline)) {
    typedef typename decltype(type)::type V;
    typedef typename PartOf<V, T>::type P;
    const V g = widened(load<P>(dy + j));
    const V xhat = (widened(load<P>(x + j)) - mean) * invstd;
    store(dweight + j, load<V>(dweight + j) + g * xhat);
    store(dbias + j, load<V>(dbias + j) + g);
  });
}

// dx = invstd (w dy - mean(w dy) - xhat mean(w dy xhat)), Ba, Kiros & Hinton 2016
// (arXiv:1607.06450); without the first mean where rows are not centred, Zhang & Sennrich 2019
// (arXiv:1910.07467).
template <class T>
static void row_gradient(const void* dys, const void* xs, void* dxs, const NormRows& rows,
                         const void* weights, double* dweight, double* dbias, bool past_cache) {
  const T* weight = static_cast<const T*>(weights);
  for (int64_t r = 0; r < rows.rows; ++r) {
    const int64_t at = r * rows.size;
    const T* dy = static_cast<const T*>(dys) + at;
    const T* x = static_cast<const T*>(xs) + at;
    const double mean = rows.mean[r], invstd = rows.exact_invstd[r];
    const double size = static_cast<double>(rows.size);
    const GradientSums sums = row_sums(dy, x, weight, rows.size, mean);
    add_row(dy, x, rows.size, mean, invstd, dweight, dbias);
    const T shift = static_cast<const T*>(rows.shift)[r];
    const double by_x = -(invstd * (sums.dy_x * invstd)) / size;
    const double by_one = rows.centred ? invstd * (sums.dy / size) : 0;
    const double rest = by_x * ((static_cast<double>(shift) - mean) * invstd) - by_one;
    const Slope<T> slope{static_cast<T>(invstd), static_cast<T>(by_x), static_cast<T>(rest), shift,
                         static_cast<const T*>(rows.invstd)[r]};
    const auto f = [&](auto g, auto value, auto w)
                       __attribute__((always_inline)) { return slope(w * g, value); };
    fill(static_cast<T*>(dxs) + at, rows.size, past_cache, f, dy, x, weight);
  }
  if (past_cache) stream_fence();
}

}  // namespace gradstep::GRADSTEP_ISA::norm
