#include "engine/activation/softmax.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "engine/dispatch.hpp"
#include "engine/dtype.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

namespace {

// Rows at least this long are cut, where there are too few to share out.
constexpr int64_t kLongRow = int64_t{1} << 16;

const SoftmaxKernels& kernels() { return *active_table().softmax; }

// One row, cut into blocks of sums: most, then sums, then results.
void softmax_long_row(const SoftmaxJob& job, DType type, int64_t row) {
  const SoftmaxKernels& k = kernels();
  const int64_t blocks = (job.n + kSumBlock - 1) / kSumBlock;
  std::vector<double> sums(blocks), smooth(blocks), most(blocks);
  const bool forward = job.kind <= kCrossEntropy;
  RowStats stats{-std::numeric_limits<double>::infinity(), 0, 0, target_logit(job, type, row)};
  if (forward) {
    share_out(job.n, 1, kSumBlock, [&](int64_t begin, int64_t end) {
      most[begin / kSumBlock] = k.max[type](job, row, begin, end);
      for (int64_t b = begin / kSumBlock + 1; b * kSumBlock < end; ++b)
        most[b] = most[begin / kSumBlock];
    });
    stats.max = *std::max_element(most.begin(), most.end());
  }
  share_out(job.n, 1, kSumBlock, [&](int64_t begin, int64_t end) {
    const int64_t block = begin / kSumBlock;
    k.sums[type](job, row, begin, end, stats.max, &sums[block], &smooth[block]);
  });
  for (int64_t b = 0; b < blocks; ++b) {
    stats.sum += sums[b];
    stats.smooth += smooth[b];
  }
  share_out(job.n, 1, kSumBlock,
            [&](int64_t begin, int64_t end) { k.finish[type](job, row, begin, end, stats); });
}

}  // namespace

int64_t target_of(const SoftmaxJob& job, int64_t row) {
  return job.wide_targets ? static_cast<const int64_t*>(job.targets)[row]
                          : static_cast<const int32_t*>(job.targets)[row];
}

double target_logit(const SoftmaxJob& job, DType type, int64_t row) {
  if (job.kind != kCrossEntropy || target_of(job, row) == job.ignored) return 0;
  const int64_t i = row * job.n + target_of(job, row);
  return value_at(job.x, type, i);
}

void run_softmax(const SoftmaxJob& job, DType type) {
  if (job.n == 0) return;
  const int threads = ThreadPool::instance().threads();
  if (job.inner == 1 && job.n >= kLongRow && threads > 1 && job.rows < 4 * threads) {
    for (int64_t row = 0; row < job.rows; ++row) softmax_long_row(job, type, row);
    return;
  }
  share_out(job.rows, job.n, 16,
            [&](int64_t begin, int64_t end) { kernels().rows[type](job, begin, end); });
}

double run_cross_entropy(const SoftmaxJob& job, DType type) {
  run_softmax(job, type);
  return active_table().loss->total(job.losses, job.rows);
}

}  // namespace gradstep
