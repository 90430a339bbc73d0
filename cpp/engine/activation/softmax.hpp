// What SoftmaxJob names over whole arrays, shared out among threads; sums
// combined in order.
#pragma once
#include "isa/softmax/table.hpp"
#include "isa/table.hpp"

namespace gradstep {

// Fails, if it does, before it writes.
void run_softmax(const SoftmaxJob& job, DType type);

}  // namespace gradstep
