// Plain data between the engine and the kernels of losses.
#pragma once
#include <cstdint>

#include "isa/table.hpp"

namespace gradstep {

struct LossKernels {
  // Of the losses of rows, in the order of sums.
  double (*total)(const double* x, int64_t n);
  // gradient = (prediction - target) * scale; blocks: sums of squared differences.
  ByType<void (*)(int64_t n, const void* prediction, const void* target, void* gradient,
                  double scale, double* blocks)>
      squared_error;
};

}  // namespace gradstep
