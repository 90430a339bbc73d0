// Plain data between the planning of activations and losses and their kernels. Index 2: by DType.
#pragma once
#include <cstdint>

namespace gradstep {

// One activation that treats every element alone. `past_cache`: y is not read again soon, so it
// goes to memory without a look at what was there.
struct Activation {
  const char* name;
  void (*forward[2])(double parameter, int64_t n, const void* x, void* y, bool past_cache);
  void (*backward[2])(double parameter, int64_t n, const void* dy, const void* saved, void* dx,
                      bool past_cache);
};

enum SoftmaxKind : int32_t {
  kSoftmax,
  kLogSoftmax,
  kCrossEntropy,
  kSoftmaxBackward,
  kLogSoftmaxBackward
};

// Rows of n elements, `inner` apart: element j of row r is at (r / inner * n + j) * inner +
// r % inner. Forward: x -> y. Backward: x holds the result of the forward pass, y gets dx.
struct SoftmaxJob {
  SoftmaxKind kind;
  int64_t rows, n, inner;
  const void *x, *dy;
  void* y;
  // Cross-entropy: y gets d loss / d x.
  const void* targets;  // one integer a row
  bool wide_targets;    // int64, else int32
  int64_t ignored;      // the target of rows that take no part
  const void* weights;  // of the classes; null: 1
  double weight_sum;    // of all classes
  double smoothing;     // moved from the target to all classes, evenly
  const void* smooth;   // scale * smoothing / n * weight of each class; null where smoothing is 0
  double scale;         // of the gradient
  double* losses;       // one a row
};

// What is known of a row before its results are written.
struct RowStats {
  double max, sum, smooth, target_logit;
};

// x of shape (outer, channels, inner), a weight for each channel.
struct PreluJob {
  int64_t outer, channels, inner;
  const void *x, *weight, *dy;
  void* y;           // backward: dx
  double* partials;  // of the weight's gradient; see prelu_backward
};

// x of shape (outer, channels, pieces, inner), y of shape (outer, channels, inner).
struct MaxoutJob {
  int64_t outer, channels, pieces, inner;
  const void *x, *dy;
  void* y;  // backward: dx, shaped like x
};

// Rows of channels that one partial sum takes where channels are innermost; defines an order.
inline constexpr int64_t kChannelRows = 256;

struct ActivationKernels {
  const Activation* activations;
  int activation_count;
  // Rows [begin, end).
  void (*softmax[2])(const SoftmaxJob&, int64_t begin, int64_t end);
  // Elements [begin, end) of one row with inner = 1; begin a multiple of kSumBlock. In this order:
  double (*softmax_max[2])(const SoftmaxJob&, int64_t row, int64_t begin, int64_t end);
  void (*softmax_sums[2])(const SoftmaxJob&, int64_t row, int64_t begin, int64_t end, double max,
                          double* sums, double* smooth);  // one of each for a block
  void (*softmax_finish[2])(const SoftmaxJob&, int64_t row, int64_t begin, int64_t end,
                            const RowStats&);
  double (*total)(const double* x, int64_t n);
  // gradient = (prediction - target) * scale; blocks: sums of squared differences.
  void (*mse[2])(int64_t n, const void* prediction, const void* target, void* gradient,
                 double scale, double* blocks);
  // [begin, end): rows of `inner` elements, or rows of channels where inner = 1, from a multiple of
  // kChannelRows.
  void (*prelu[2])(const PreluJob&, int64_t begin, int64_t end);
  void (*prelu_backward[2])(const PreluJob&, int64_t begin, int64_t end);
  // [begin, end) of outer * channels.
  void (*maxout[2])(const MaxoutJob&, int64_t begin, int64_t end);
  void (*maxout_backward[2])(const MaxoutJob&, int64_t begin, int64_t end);
};

}  // namespace gradstep
