// Plain data between the engine and the kernels of softmax, its logarithm and cross-entropy.
#pragma once
#include <cstdint>

#include "isa/table.hpp"

namespace gradstep {

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
  const int64_t* targets;  // one a row, each a class or `ignored`
  int64_t ignored;         // the target of rows that take no part
  const void* weights;     // of the classes; null: 1
  double weight_sum;       // of all classes
  double smoothing;        // moved from the target to all classes, evenly
  const void* smooth;  // scale * smoothing / n * weight of each class; null where smoothing is 0
  double scale;        // of the gradient
  double* losses;      // one a row
};

// What is known of a row before its results are written.
struct RowStats {
  double max, sum, smooth, target_logit;
};

struct SoftmaxKernels {
  // Rows [begin, end).
  ByType<void (*)(const SoftmaxJob&, int64_t begin, int64_t end)> rows;
  // Elements [begin, end) of one row with inner = 1; begin a multiple of kSumBlock. In this order:
  ByType<double (*)(const SoftmaxJob&, int64_t row, int64_t begin, int64_t end)> max;
  ByType<void (*)(const SoftmaxJob&, int64_t row, int64_t begin, int64_t end, double max,
                  double* sums, double* smooth)>
      sums;  // one of each for a block
  ByType<void (*)(const SoftmaxJob&, int64_t row, int64_t begin, int64_t end, const RowStats&)>
      finish;
};

}  // namespace gradstep
