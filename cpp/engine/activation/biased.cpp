#include "engine/activation/biased.hpp"

#include <algorithm>
#include <numeric>

#include "engine/dispatch.hpp"
#include "engine/dtype.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

namespace {

constexpr int64_t kPiece = 2048;   // elements that stay in L1 between the two passes
constexpr int64_t kColumns = 128;  // of one task, backward

const Activation& activation(int index) { return active_table().activation->activations[index]; }

// Rules that draw bits: neither all nor nothing is kept.
bool draws(const DropoutRule* rule) {
  return rule && rule->threshold != 0 && rule->threshold != 65536;
}

}  // namespace

void run_biased(int index, DType type, double parameter, const BiasedJob& job,
                const DropoutRule* rule) {
  const int64_t columns = std::max<int64_t>(job.columns, 1), n = job.rows * job.columns;
  if (rule && rule->threshold == 65536) return dropout(*rule, {type, n, job.x, job.y}, 0);
  const auto kernel = activation(index).biased[type];
  if (!draws(rule))
    return share_out(job.rows, columns, 1,
                     [&](int64_t begin, int64_t end) { kernel(parameter, job, begin, end); });
  // Ranges of rows that begin where a tile of the stream does.
  const int64_t tile = kDropoutTile / std::gcd(columns, kDropoutTile);
  const int64_t step = std::max<int64_t>(kPiece / columns / tile, 1) * tile;
  const auto drop = active_table().dropout->scale[type];
  const int64_t size = bytes_of(type);
  share_out(job.rows, columns, tile, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row += step) {
      const int64_t stop = std::min(row + step, end), first = row * columns;
      kernel(parameter, job, row, stop);
      void* y = static_cast<char*>(job.y) + first * size;
      drop(*rule, first, stop * columns - first, y, y);
    }
  });
}

void run_biased_backward(int index, DType type, double parameter, BiasedJob job,
                         const DropoutRule* rule) {
  const Activation& function = activation(index);
  if (draws(rule) && function.stops_at_zero && !job.bias) {
    job.scale = rule->scale;  // y tells what was dropped
  } else if (rule && rule->threshold != 0) {
    dropout(*rule, {type, job.rows * job.columns, job.dy, job.y}, 0);
    job.dy = job.y;
  }
  const auto kernel = function.biased_backward[type];
  const int64_t tasks = (job.columns + kColumns - 1) / kColumns;
  share_out(tasks, kColumns * job.rows, 1, [&](int64_t begin, int64_t end) {
    kernel(parameter, job, begin * kColumns, std::min(end * kColumns, job.columns));
  });
}

}  // namespace gradstep
