// Plain data: arrays kept in 16 bits, from and to float32.
#pragma once
#include <cstdint>

#include "isa/table.hpp"

namespace gradstep {

// One for each of HALF_TYPES.
template <class Entry>
using ByHalf = Entry[kHalfTypes];

struct ConvertKernels {
  ByHalf<void (*)(int64_t n, const void* x, float* y)> widen;
  // To nearest, halves to even. Past the cache the caller owes a fence().
  ByHalf<void (*)(int64_t n, const float* x, void* y, bool past_cache)> narrow;
  void (*fence)();
};

}  // namespace gradstep
