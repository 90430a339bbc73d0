// Plain data between the engine and the kernels of losses. Index 2: by DType.
#pragma once
#include <cstdint>

namespace gradstep {

struct LossKernels {
  // Of the losses of rows, in the order of sums.
  double (*total)(const double* x, int64_t n);
  // gradient = (prediction - target) * scale; blocks: sums of squared differences.
  void (*squared_error[2])(int64_t n, const void* prediction, const void* target, void* gradient,
                           double scale, double* blocks);
};

}  // namespace gradstep
