// Softmax, its logarithm and cross-entropy over whole arrays, shared out among threads; sums
// combined in order.
#pragma once
#include "isa/softmax/table.hpp"
#include "isa/table.hpp"

namespace gradstep {

int64_t target_of(const SoftmaxJob& job, int64_t row);
// The logit of a row's target where inner is 1; 0 if there is none.
double target_logit(const SoftmaxJob& job, DType type, int64_t row);

void run_softmax(const SoftmaxJob& job, DType type);
// The sum of job.losses, which it fills.
double run_cross_entropy(const SoftmaxJob& job, DType type);

}  // namespace gradstep
