// Maxout over whole arrays, shared out among threads.
#pragma once
#include "isa/activation/table.hpp"
#include "isa/table.hpp"

namespace gradstep {

// Backward where job.dy is set.
void run_maxout(const MaxoutJob& job, DType type);

}  // namespace gradstep
