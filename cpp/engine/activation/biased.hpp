// Activations of x + bias, with dropout, over whole arrays.
#pragma once
#include "engine/dropout/dropout.hpp"
#include "isa/activation/table.hpp"

namespace gradstep {

// y = dropout(activation(x + bias)); rule: null for none. y may be x.
void run_biased(int index, DType type, double parameter, const BiasedJob& job,
                const DropoutRule* rule);
// dx and the sums of its columns. dx may be dy or what was saved.
void run_biased_backward(int index, DType type, double parameter, BiasedJob job,
                         const DropoutRule* rule);

}  // namespace gradstep
