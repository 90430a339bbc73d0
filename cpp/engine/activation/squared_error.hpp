// The squared error over whole arrays, shared out among threads; sums combined in order.
#pragma once
#include "isa/table.hpp"

namespace gradstep {

// The mean of the squared differences; NaN for n = 0.
double run_mse(DType type, int64_t n, const void* prediction, const void* target, void* gradient);

}  // namespace gradstep
