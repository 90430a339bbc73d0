// Activations and losses over whole arrays: shared out among threads, sums combined in order.
#pragma once
#include "activation_kernels.hpp"
#include "kernels.hpp"

namespace gradstep {

// y may be x.
void run_activation(int index, DType type, double parameter, int64_t n, const void* x, void* y);
// dx may be dy or saved.
void run_activation_backward(int index, DType type, double parameter, int64_t n, const void* dy,
                             const void* saved, void* dx);

int64_t target_of(const SoftmaxJob& job, int64_t row);
// The logit of a row's target where inner is 1; 0 if there is none.
double target_logit(const SoftmaxJob& job, DType type, int64_t row);

void run_softmax(const SoftmaxJob& job, DType type);
// The sum of job.losses, which it fills.
double run_cross_entropy(const SoftmaxJob& job, DType type);
// The mean of the squared differences; NaN for n = 0.
double run_mse(DType type, int64_t n, const void* prediction, const void* target, void* gradient);

void run_prelu(const PreluJob& job, DType type);
void run_prelu_backward(PreluJob job, DType type, double* dweight);
// Backward where job.dy is set.
void run_maxout(const MaxoutJob& job, DType type);

}  // namespace gradstep
