// Plain data: what normalisation needs of one ISA. T is float or double; statistics are double.
#pragma once
#include <cstdint>

#include "isa/table.hpp"

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

// Sums of d = x - shift, where shift is the first x of the channel in the tile.
struct ShiftedSums {
  double shift, sum, squares;
};

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

// What normalises row r of `size` elements: xhat = (x - shift[r]) invstd[r] + rest[r], in T, and
// mean[r] and exact_invstd[r] that these are rounded from.
struct NormRows {
  int64_t rows, size;
  const void *shift, *invstd, *rest;
  const double *mean, *exact_invstd;
  bool centred;  // the mean is of the row, so dx has no component along 1
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
  // moments of spatial lanes with shift 0: the sums of x and of its squares.
  ByType<void (*)(const void* x, const NormTile&, ShiftedSums* channels)> squares;
  // y = xhat weight + bias, over rows that share weight and bias (T arrays).
  ByType<void (*)(const void* x, void* y, const NormRows&, const void* weight, const void* bias,
                  bool past_cache)>
      scale_rows;
  // dx of rows, and their parts of the gradients of weight and bias added to `size` doubles each.
  ByType<void (*)(const void* dy, const void* x, void* dx, const NormRows&, const void* weight,
                  double* dweight, double* dbias, bool past_cache)>
      row_gradient;
};

}  // namespace gradstep
