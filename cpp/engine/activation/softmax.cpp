#include "engine/activation/softmax.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "engine/dispatch.hpp"
#include "engine/halves.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

namespace {

// Rows at least this long are cut, where there are too few to share out.
constexpr int64_t kLongRow = int64_t{1} << 16;

const SoftmaxKernels& kernels() { return *active_table().softmax; }

// What each block of a row gives.
struct Blocks {
  std::vector<double> most, sums, smooth;
  explicit Blocks(int64_t count) : most(count), sums(count), smooth(count) {}
};

// The logit of a row's target where inner is 1; 0 if there is none.
double target_logit(const SoftmaxJob& job, DType type, int64_t row) {
  if (job.kind != kCrossEntropy || job.targets[row] == job.ignored) return 0;
  return value_at(job.x, type, row * job.n + job.targets[row]);
}

// One row, cut into blocks of sums: most, then sums, then results.
void softmax_long_row(const SoftmaxJob& job, DType type, int64_t row, Blocks* of) {
  const SoftmaxKernels& k = kernels();
  std::vector<double>&most = of->most, &sums = of->sums, &smooth = of->smooth;
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
  for (size_t b = 0; b < sums.size(); ++b) {
    stats.sum += sums[b];
    stats.smooth += smooth[b];
  }
  share_out(job.n, 1, kSumBlock,
            [&](int64_t begin, int64_t end) { k.finish[type](job, row, begin, end, stats); });
}

// Of 16 bits: as many rows at a time as stay in L1, with all that lie side by side.
template <size_t kInputs>
void softmax_of_halves(const SoftmaxJob& job, DType type,
                       const std::array<const void*, kInputs>& inputs) {
  const int64_t sets = job.rows / job.inner, group = std::min<int64_t>(job.n < 128 ? 16 : 1, sets);
  const int64_t set = job.n * job.inner;
  const Units<kInputs> units(type, group * set);
  share_out(sets, set, group, [&](int64_t begin, int64_t end) {
    units.in_pieces(begin * set, end * set, inputs, job.y, false,
                    [&](int64_t first, int64_t last, const auto& x, void* y) {
                      SoftmaxJob now = job;
                      now.rows = (last - first) / job.n;
                      now.dy = x[0], now.x = x[kInputs - 1], now.y = y;
                      kernels().rows[kFloat32](now, 0, now.rows);
                    });
  });
}

}  // namespace

void run_softmax(const SoftmaxJob& job, DType type) {
  if (job.rows * job.n == 0) return;
  if (is_half(type) && job.kind >= kSoftmaxBackward)
    return softmax_of_halves<2>(job, type, {job.dy, job.x});
  if (is_half(type)) return softmax_of_halves<1>(job, type, {job.x});
  const int threads = ThreadPool::instance().threads();
  if (job.inner == 1 && job.n >= kLongRow && threads > 1 && job.rows < 4 * threads) {
    Blocks blocks((job.n + kSumBlock - 1) / kSumBlock);
    for (int64_t row = 0; row < job.rows; ++row) softmax_long_row(job, type, row, &blocks);
    return;
  }
  share_out(job.rows, job.n, 16,
            [&](int64_t begin, int64_t end) { kernels().rows[type](job, begin, end); });
}

}  // namespace gradstep
