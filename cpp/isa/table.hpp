// Plain data that the tables of all families share: no vectors, no threads, no Python.
#pragma once
#include <cstdint>

namespace gradstep {

// The types that formulas compute in, which arrays may have everywhere: X(enumerator, type, name,
// arguments of STORAGE_TYPES after X).
#define STORAGE_TYPES(X, ...)                              \
  X(kFloat32, float, "float32" __VA_OPT__(, ) __VA_ARGS__) \
  X(kFloat64, double, "float64" __VA_OPT__(, ) __VA_ARGS__)

// Those of 16 bits that arrays may have where formulas compute in float32: X(enumerator, type,
// name).
#define HALF_TYPES(X)                \
  X(kBfloat16, uint16_t, "bfloat16") \
  X(kFloat16, uint16_t, "float16")
// These and all others that optimizers keep what is float32 in.
#define KEPT_TYPES(X)         \
  HALF_TYPES(X)               \
  X(kInt16, int16_t, "int16") \
  X(kInt8, int8_t, "int8")    \
  X(kUint8, uint8_t, "uint8")

#define ENUMERATOR_(enumerator, type, name) enumerator,
enum DType : int32_t { STORAGE_TYPES(ENUMERATOR_) KEPT_TYPES(ENUMERATOR_) kAllDTypes };
#undef ENUMERATOR_

#define COUNT_(enumerator, type, name) +1
inline constexpr int kDTypes = 0 STORAGE_TYPES(COUNT_), kHalfTypes = 0 HALF_TYPES(COUNT_);
#undef COUNT_

// One for each type, indexed by DType.
template <class Entry>
using ByType = Entry[kDTypes];

// Those of a function template: BY_TYPE(f, A) is {f<float, A>, f<double, A>}.
#define FUNCTION_(enumerator, type, name, function, ...) function<type __VA_OPT__(, ) __VA_ARGS__>,
#define BY_TYPE(...) {STORAGE_TYPES(FUNCTION_, __VA_ARGS__)}

// Elements of an 8-bit array that share one scale.
inline constexpr int64_t kScaleBlock = 256;

// Elements of one block of a sum; fixed, because it defines the order of summation.
inline constexpr int64_t kSumBlock = 4096;

}  // namespace gradstep
