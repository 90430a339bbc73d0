#include <algorithm>
#include <limits>
#include <vector>

#include "activation_plan.hpp"
#include "dispatch.hpp"
#include "share_out.hpp"

namespace gradstep {

namespace {

// Bytes of an output that is not expected to stay in a cache: it is written past it.
constexpr int64_t kPastCache = int64_t{8} << 20;
// Rows at least this long are cut, where there are too few to share out.
constexpr int64_t kLongRow = int64_t{1} << 16;

int64_t size_of(DType type) { return type == kFloat32 ? 4 : 8; }

const char* at(const void* p, int64_t bytes) { return static_cast<const char*>(p) + bytes; }
char* at(void* p, int64_t bytes) { return static_cast<char*>(p) + bytes; }

const ActivationKernels& kernels() { return *active_table().activation; }

// One row, cut into blocks of sums: most, then sums, then results.
void softmax_long_row(const SoftmaxJob& job, DType type, int64_t row) {
  const ActivationKernels& k = kernels();
  const int64_t blocks = (job.n + kSumBlock - 1) / kSumBlock;
  std::vector<double> sums(blocks), smooth(blocks), most(blocks);
  const bool forward = job.kind <= kCrossEntropy;
  RowStats stats{-std::numeric_limits<double>::infinity(), 0, 0, target_logit(job, type, row)};
  if (forward) {
    share_out(job.n, 1, kSumBlock, [&](int64_t begin, int64_t end) {
      most[begin / kSumBlock] = k.softmax_max[type](job, row, begin, end);
      for (int64_t b = begin / kSumBlock + 1; b * kSumBlock < end; ++b)
        most[b] = most[begin / kSumBlock];
    });
    stats.max = *std::max_element(most.begin(), most.end());
  }
  share_out(job.n, 1, kSumBlock, [&](int64_t begin, int64_t end) {
    const int64_t block = begin / kSumBlock;
    k.softmax_sums[type](job, row, begin, end, stats.max, &sums[block], &smooth[block]);
  });
  for (int64_t b = 0; b < blocks; ++b) {
    stats.sum += sums[b];
    stats.smooth += smooth[b];
  }
  share_out(job.n, 1, kSumBlock, [&](int64_t begin, int64_t end) {
    k.softmax_finish[type](job, row, begin, end, stats);
  });
}

}  // namespace

int64_t target_of(const SoftmaxJob& job, int64_t row) {
  return job.wide_targets ? static_cast<const int64_t*>(job.targets)[row]
                          : static_cast<const int32_t*>(job.targets)[row];
}

double target_logit(const SoftmaxJob& job, DType type, int64_t row) {
  if (job.kind != kCrossEntropy || target_of(job, row) == job.ignored) return 0;
  const int64_t i = row * job.n + target_of(job, row);
  return type == kFloat32 ? static_cast<const float*>(job.x)[i]
                          : static_cast<const double*>(job.x)[i];
}

void run_activation(int index, DType type, double parameter, int64_t n, const void* x, void* y) {
  const auto forward = kernels().activations[index].forward[type];
  const int64_t size = size_of(type);
  const bool past_cache = x != y && n * size > kPastCache;
  share_out(n, 1, 1, [&](int64_t begin, int64_t end) {
    forward(parameter, end - begin, at(x, begin * size), at(y, begin * size), past_cache);
  });
}

void run_activation_backward(int index, DType type, double parameter, int64_t n, const void* dy,
                             const void* saved, void* dx) {
  const auto backward = kernels().activations[index].backward[type];
  const int64_t size = size_of(type);
  const bool past_cache = dx != dy && dx != saved && n * size > kPastCache;
  share_out(n, 1, 1, [&](int64_t begin, int64_t end) {
    backward(parameter, end - begin, at(dy, begin * size), at(saved, begin * size),
             at(dx, begin * size), past_cache);
  });
}

void run_softmax(const SoftmaxJob& job, DType type) {
  if (job.n == 0) return;
  const int threads = ThreadPool::instance().threads();
  if (job.inner == 1 && job.n >= kLongRow && threads > 1 && job.rows < 4 * threads) {
    for (int64_t row = 0; row < job.rows; ++row) softmax_long_row(job, type, row);
    return;
  }
  share_out(job.rows, job.n, 16,
            [&](int64_t begin, int64_t end) { kernels().softmax[type](job, begin, end); });
}

double run_cross_entropy(const SoftmaxJob& job, DType type) {
  run_softmax(job, type);
  return kernels().total(job.losses, job.rows);
}

double run_mse(DType type, int64_t n, const void* prediction, const void* target, void* gradient) {
  const int64_t size = size_of(type), count = (n + kSumBlock - 1) / kSumBlock;
  std::vector<double> blocks(count);
  const double scale = 2 / static_cast<double>(n);
  share_out(n, 1, kSumBlock, [&](int64_t begin, int64_t end) {
    kernels().mse[type](end - begin, at(prediction, begin * size), at(target, begin * size),
                        at(gradient, begin * size), scale, &blocks[begin / kSumBlock]);
  });
  double sum = 0;
  for (double block : blocks) sum += block;
  return sum / static_cast<double>(n);
}

void run_prelu(const PreluJob& job, DType type) {
  const bool innermost = job.inner == 1;
  share_out(innermost ? job.outer : job.outer * job.channels, innermost ? job.channels : job.inner,
            1, [&](int64_t begin, int64_t end) { kernels().prelu[type](job, begin, end); });
}

void run_prelu_backward(PreluJob job, DType type, double* dweight) {
  const bool innermost = job.inner == 1;
  const int64_t rows = innermost ? job.outer : job.outer * job.channels;
  const int64_t chunks = (job.outer + kChannelRows - 1) / kChannelRows;
  const int64_t blocks = (job.inner + kSumBlock - 1) / kSumBlock;
  std::vector<double> partials(innermost ? chunks * job.channels : rows * blocks);
  job.partials = partials.data();
  share_out(rows, innermost ? job.channels : job.inner, innermost ? kChannelRows : 1,
            [&](int64_t begin, int64_t end) { kernels().prelu_backward[type](job, begin, end); });
  std::fill_n(dweight, job.channels, 0.0);
  for (int64_t i = 0; innermost && i < chunks * job.channels; ++i)
    dweight[i % job.channels] += partials[i];
  for (int64_t i = 0; !innermost && i < rows * blocks; ++i)
    dweight[i / blocks % job.channels] += partials[i];
}

void run_maxout(const MaxoutJob& job, DType type) {
  share_out(job.outer * job.channels, job.inner * job.pieces, 1, [&](int64_t begin, int64_t end) {
    (job.dy == nullptr ? kernels().maxout : kernels().maxout_backward)[type](job, begin, end);
  });
}

}  // namespace gradstep
