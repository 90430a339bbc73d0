// Plain data: what normalisation needs of one ISA. T is float or double; statistics are double.
#pragma once
#include <cstdint>

#include "isa/table.hpp"

#define NORM_INLINE inline __attribute__((always_inline))  // one text for engine and kernels

namespace gradstep {

// Where the elements of a tile are. Spatial lanes: element i < size of channel c < channels in
// piece n < pieces is at n stride + c size + i. Channel lanes: row n holds channel c at n stride +
// c, and `size` rows side by side make one row of the lanes (1, or kNormFold where stride ==
// channels).
struct NormTile {
  int64_t pieces, stride, channels, size;
};

// The borders of tiles and the folding of narrow rows define the order of the sums.
inline constexpr int64_t kNormTile = 4096;  // spatial lanes: elements of a channel, at most
inline constexpr int64_t kNormRows = 1024;  // channel lanes: rows
inline constexpr int64_t kNormNarrow = 64;  // channel lanes: rows of fewer channels are folded
inline constexpr int64_t kNormFold = 16;

// m2: the sum of squared deviations from the mean.
struct Moments {
  double count = 0, mean = 0, m2 = 0;
  __attribute__((always_inline)) double variance() const { return count > 0 ? m2 / count : 0; }
};

// Of both parts together: Chan, Golub & LeVeque 1979.
NORM_INLINE Moments merged(const Moments& a, const Moments& b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  const double count = a.count + b.count, delta = b.mean - a.mean, share = b.count / count;
  return {count, a.mean + delta * share, (a.m2 + b.m2) + (delta * delta) * (a.count * share)};
}

// 1 / sqrt(variance + eps), and 0 where both are 0, so that a constant channel gives its bias.
NORM_INLINE double inverse_deviation(double variance, double eps) {
  return variance == 0 && eps == 0 ? 0 : 1 / __builtin_sqrt(variance + eps);
}

// Sums of d = x - shift.
struct ShiftedSums {
  double shift, sum, squares;
};

NORM_INLINE Moments moments_of(const ShiftedSums& sums, int64_t elements) {
  const double count = static_cast<double>(elements), offset = sums.sum / count;
  return {count, sums.shift + offset, sums.squares - sums.sum * offset};
}

struct GradientSums {
  double dy, dy_x;  // sums of dy and dy (x - mean)
};

// y = (x - shift) scale + offset, then y <= 0 becomes 0 where relu is set. T arrays.
struct NormScale {
  const void *shift, *scale, *offset;
  bool relu;
};

// dx = (of_dy dy + of_x ((x - shift) invstd)) + constant. T arrays. of_x null: dx = of_dy dy.
struct NormSlopes {
  const void *of_dy, *of_x, *constant, *shift, *invstd;
};

// Rows of `size` elements. The statistics are those of every row: written forward, read backward.
struct NormRows {
  int64_t rows, size;
  bool centred;  // layer norm, not RMS norm: then `mean` may be null
  double eps;    // forward only
  double *mean, *invstd;
  int64_t bytes;  // of all rows of all arrays, of which these are some; 0 in buffers
};

struct NormLayout {
  void (*moments)(const void* x, const NormTile&, ShiftedSums* channels);
  void (*scale)(const void* x, void* y, const NormTile&, const NormScale&, bool past_cache);
  // Where `y` is not null its relu is passed: dy counts as 0 where the forward pass gave 0.
  void (*gradient_sums)(const void* dy, const void* x, const NormTile&, const double* mean,
                        const NormScale* y, GradientSums* channels);
  void (*gradient)(const void* dy, const void* x, void* dx, const NormTile&, const NormSlopes&,
                   const NormScale* y, bool past_cache);
};

enum NormLanes : int32_t { kSpatialLanes, kChannelLanes };

struct NormKernels {
  ByType<NormLayout> layout[2];  // by NormLanes
  // y = xhat weight + bias, over rows that share weight and bias (T arrays).
  ByType<void (*)(const void* x, void* y, const NormRows&, const void* weight, const void* bias,
                  bool past_cache)>
      normalise_rows;
  // dx of rows; what they give of the gradients of weight and bias, `size` values of T each, is
  // added to these. dx may be dy or x.
  ByType<void (*)(const void* dy, const void* x, void* dx, const NormRows&, const void* weight,
                  void* dweight, void* dbias, bool past_cache)>
      row_gradient;
};

}  // namespace gradstep
