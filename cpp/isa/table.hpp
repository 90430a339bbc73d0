// Plain data that the tables of all families share: no vectors, no threads, no Python.
#pragma once
#include <cstdint>

namespace gradstep {

enum DType : int32_t { kFloat32, kFloat64 };

// Elements of one block of a sum; fixed, because it defines the order of summation.
inline constexpr int64_t kSumBlock = 4096;

}  // namespace gradstep
