// PReLU over whole arrays, shared out among threads; sums combined in order.
#pragma once
#include "isa/activation/table.hpp"
#include "isa/table.hpp"

namespace gradstep {

void run_prelu(const PreluJob& job, DType type);
void run_prelu_backward(PreluJob job, DType type, double* dweight);

}  // namespace gradstep
