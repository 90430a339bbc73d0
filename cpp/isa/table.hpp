// Plain data that the tables of all families share: no vectors, no threads, no Python.
#pragma once
#include <cstdint>

namespace gradstep {

// The types that arrays may have: X(enumerator, type, name, arguments of STORAGE_TYPES after X).
#define STORAGE_TYPES(X, ...)                              \
  X(kFloat32, float, "float32" __VA_OPT__(, ) __VA_ARGS__) \
  X(kFloat64, double, "float64" __VA_OPT__(, ) __VA_ARGS__)

#define ENUMERATOR_(enumerator, type, name) enumerator,
enum DType : int32_t { STORAGE_TYPES(ENUMERATOR_) };
#undef ENUMERATOR_

#define COUNT_(enumerator, type, name) +1
inline constexpr int kDTypes = 0 STORAGE_TYPES(COUNT_);
#undef COUNT_

// One for each type, indexed by DType.
template <class Entry>
using ByType = Entry[kDTypes];

// Those of a function template: BY_TYPE(f, A) is {f<float, A>, f<double, A>}.
#define FUNCTION_(enumerator, type, name, function, ...) function<type __VA_OPT__(, ) __VA_ARGS__>,
#define BY_TYPE(...) {STORAGE_TYPES(FUNCTION_, __VA_ARGS__)}

// Elements of one block of a sum; fixed, because it defines the order of summation.
inline constexpr int64_t kSumBlock = 4096;

}  // namespace gradstep
