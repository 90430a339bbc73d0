// Normalisation of rows that share weight and bias by element: layer norm and RMS norm. A row is
// walked while it is in L1, and the next one is asked for meanwhile.
#pragma once
#include "isa/norm/layouts.hpp"

namespace gradstep::GRADSTEP_ISA::norm {

// Whether sums of squares in T neither overflowed nor lost digits below the normal numbers.
template <class T>
ALWAYS_INLINE bool in_range(double squares) {
  constexpr double kLeast = sizeof(T) == 4 ? 0x1p-100 : 0x1p-900;
  return squares > kLeast && squares < __builtin_inf();
}

// Forward, vectors of a whole line gain nothing: their last sweep is too short for it.
ALWAYS_INLINE bool forward_asks_last(const NormRows& rows) {
  return kBytes < 64 && asks_last(rows.bytes);
}

// Moments of a tile in two passes: the mean rounded to T, then deviations from it.
template <class T>
ALWAYS_INLINE Moments row_moments(const T* x, int64_t n, const NormRows& rows) {
  const bool asks = !forward_asks_last(rows);
  double sums[2];
  paired_sums<1>(
      n, T{}, sums,
      [](int64_t, int64_t, auto v)
          __attribute__((always_inline)) { return Terms<decltype(v), 1>{{v}}; },
      x);
  const T shift = static_cast<T>(sums[0] / static_cast<double>(n));
  paired_sums<2>(
      n, shift, sums,
      [&](int64_t i, int64_t, auto v) __attribute__((always_inline)) {
        if (asks) prefetch(x, i + rows.size);
        const auto d = v - shift;
        return Terms<decltype(v), 2>{{d, d * d}};
      },
      x);
  if (in_range<T>(sums[1])) return moments_of({static_cast<double>(shift), sums[0], sums[1]}, n);
  ShiftedSums exact;
  Spatial::moments_as<T, true>(x, {1, 0, 1, n}, &exact);
  return moments_of(exact, n);
}

template <class T>
ALWAYS_INLINE double row_squares(const T* x, int64_t n) {
  double sum;
  paired_sums<1>(
      n, T{}, &sum,
      [](int64_t, int64_t, auto v)
          __attribute__((always_inline)) { return Terms<decltype(v), 1>{{v * v}}; },
      x);
  if (in_range<T>(sum)) return sum;
  ShiftedSums exact;
  Spatial::moments_as<T, false>(x, {1, 0, 1, n}, &exact);
  return exact.squares;
}

// f(first element, number) for the tiles of a row, in order.
template <class F>
ALWAYS_INLINE void row_tiles(int64_t size, const F& f) {
  for (int64_t at = 0; at < size; at += kNormTile)
    f(at, size - at < kNormTile ? size - at : kNormTile);
}

template <class T, bool kCentred>
ALWAYS_INLINE void row_statistics(const T* x, const NormRows& rows, double* mean, double* invstd) {
  double variance;
  if (kCentred) {
    Moments all;
    row_tiles(rows.size, [&](int64_t at, int64_t n) __attribute__((always_inline)) {
      all = merged(all, row_moments(x + at, n, rows));
    });
    *mean = all.mean;
    variance = all.variance();
  } else {
    double squares = 0;
    row_tiles(rows.size, [&](int64_t at, int64_t n)
                             __attribute__((always_inline)) { squares += row_squares(x + at, n); });
    *mean = 0;
    variance = squares / static_cast<double>(rows.size);
  }
  *invstd = inverse_deviation(variance, rows.eps);
}

// xhat = (x - shift) scale + offset: what rounding took from the mean is in the offset.
template <class T>
ALWAYS_INLINE Affine<T> xhat_of(double mean, double invstd) {
  const T shift = static_cast<T>(mean);
  return {shift, static_cast<T>(invstd),
          static_cast<T>((static_cast<double>(shift) - mean) * invstd)};
}

template <class T, bool kCentred>
static void normalise_rows_as(const T* x, T* y, const NormRows& rows, const T* weight,
                              const T* bias, bool past_cache) {
  const int64_t n = rows.size;
  const bool last = forward_asks_last(rows);
  for (int64_t r = 0; r < rows.rows; ++r, x += n, y += n) {
    double mean, invstd;
    row_statistics<T, kCentred>(x, rows, &mean, &invstd);
    if (kCentred) rows.mean[r] = mean;
    rows.invstd[r] = invstd;
    const Affine<T> xhat = xhat_of<T>(mean, invstd);
    const auto f = [&](auto value, auto w, auto b)
                       __attribute__((always_inline)) { return xhat(value) * w + b; };
    const auto ask = [&](int64_t i) __attribute__((always_inline)) {
      if (last) ask_row<T>(i, n, x);
    };
    fill_asking(y, n, past_cache, ask, f, x, weight, bias);
  }
  if (past_cache) stream_fence();
}

template <class T>
static void normalise_rows(const void* x, void* y, const NormRows& rows, const void* weight,
                           const void* bias, bool past_cache) {
  (rows.centred ? normalise_rows_as<T, true>
                : normalise_rows_as<T, false>)(static_cast<const T*>(x), static_cast<T*>(y), rows,
                                               static_cast<const T*>(weight),
                                               static_cast<const T*>(bias), past_cache);
}

// dx = invstd (w dy - mean(w dy) - xhat mean(w dy xhat)), Ba, Kiros & Hinton 2016
// (arXiv:1607.06450); without the first mean where rows are not centred, Zhang & Sennrich 2019
// (arXiv:1910.07467).
template <class T>
static void row_gradient(const void* dys, const void* xs, void* dxs, const NormRows& rows,
                         const void* weights, void* dweights, void* dbiases, bool past_cache) {
  const int64_t n = rows.size;
  const T *dy = static_cast<const T*>(dys), *x = static_cast<const T*>(xs);
  const T* weight = static_cast<const T*>(weights);
  T *dx = static_cast<T*>(dxs), *dweight = static_cast<T*>(dweights);
  T* dbias = static_cast<T*>(dbiases);
  const bool last = asks_last(rows.bytes);
  for (int64_t r = 0; r < rows.rows; ++r, dy += n, x += n, dx += n) {
    const double invstd = rows.invstd[r], size = static_cast<double>(n);
    const Affine<T> xhat_at = xhat_of<T>(rows.centred ? rows.mean[r] : 0, invstd);
    GradientSums all{0, 0};
    row_tiles(n, [&](int64_t at, int64_t count) __attribute__((always_inline)) {
      double sums[2];
      paired_sums<2>(
          count, T{}, sums,
          [&](int64_t i, int64_t some, auto g, auto value, auto w) __attribute__((always_inline)) {
            typedef decltype(g) V;
            if (!last) prefetch(dy, at + i + n), prefetch(x, at + i + n);
            const V xhat = xhat_at(value), wg = w * g;
            add_first(dweight + at + i, some, g * xhat);
            add_first(dbias + at + i, some, g);
            return Terms<V, 2>{{wg, wg * xhat}};
          },
          dy + at, x + at, weight + at);
      all = {all.dy + sums[0], all.dy_x + sums[1]};
    });
    const T of_dy = static_cast<T>(invstd), of_xhat = static_cast<T>(-(invstd * (all.dy_x / size)));
    const T constant = static_cast<T>(rows.centred ? -(invstd * (all.dy / size)) : 0);
    const auto f = [&](auto g, auto value, auto w) __attribute__((always_inline)) {
      return (of_dy * (w * g) + of_xhat * xhat_at(value)) + constant;
    };
    const auto ask = [&](int64_t i) __attribute__((always_inline)) {
      if (last) ask_row<T>(i, n, dy, x);
    };
    fill_asking(dx, n, past_cache, ask, f, dy, x, weight);
  }
  if (past_cache) stream_fence();
}

}  // namespace gradstep::GRADSTEP_ISA::norm
