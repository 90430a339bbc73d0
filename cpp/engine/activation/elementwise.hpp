// Activations that treat every element alone, over whole arrays, shared out among threads.
#pragma once
#include "isa/table.hpp"

namespace gradstep {

// y may be x.
void run_activation(int index, DType type, double parameter, int64_t n, const void* x, void* y);
// dx may be dy or saved.
void run_activation_backward(int index, DType type, double parameter, int64_t n, const void* dy,
                             const void* saved, void* dx);

}  // namespace gradstep
