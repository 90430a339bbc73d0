// Rows or groups that have statistics of their own: threads share the rows and nothing else.
#pragma once
#include <algorithm>

#include "engine/dtype.hpp"
#include "engine/share_out.hpp"
#include "isa/norm/table.hpp"

namespace gradstep {

// Rows done together at most.
inline constexpr int64_t kStripRows = 64;

// f(first, last) for strips of the rows, shared among the threads: as many rows as stay in L2 and
// are worth a call.
template <class F>
void strips(int64_t rows, int64_t size, const F& f) {
  const int64_t strip = std::clamp<int64_t>(32768 / size, 1, kStripRows);
  run_tasks(rows * size, (rows + strip - 1) / strip, [&](int64_t first, int64_t last) {
    for (int64_t s = first; s < last; ++s) f(s * strip, std::min((s + 1) * strip, rows));
  });
}

// f(first element, tile) for the tiles of a row, in order.
template <class F>
void row_tiles(int64_t size, const F& f) {
  for (int64_t begin = 0; begin < size; begin += kNormTile)
    f(begin, NormTile{1, 0, 1, std::min(kNormTile, size - begin)});
}

typedef void (*SumsKernel)(const void*, const NormTile&, ShiftedSums*);

// take(row, moments of it) for rows [first, last), which are at x; the kernel's sums are those of a
// tile.
template <class Take>
void row_moments(SumsKernel kernel, DType type, const void* x, int64_t size, int64_t first,
                 int64_t last, const Take& take) {
  if (size <= kNormTile) {
    ShiftedSums sums[kStripRows];
    kernel(x, {1, 0, last - first, size}, sums);
    for (int64_t r = first; r < last; ++r) take(r, moments_of(sums[r - first], size));
    return;
  }
  for (int64_t r = first; r < last; ++r) {
    Moments all;
    row_tiles(size, [&](int64_t begin, const NormTile& tile) {
      ShiftedSums sums;
      kernel(at(x, type, (r - first) * size + begin), tile, &sums);
      all = merged(all, moments_of(sums, tile.size));
    });
    take(r, all);
  }
}

// Those of rows without elements.
inline void empty_statistics(int64_t rows, double eps, double* mean, double* invstd) {
  std::fill_n(mean, rows, 0.0);
  std::fill_n(invstd, rows, inverse_deviation(0, eps));
}

}  // namespace gradstep
