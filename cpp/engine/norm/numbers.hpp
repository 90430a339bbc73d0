// The few numbers per channel that come from outside.
#pragma once
#include "engine/dtype.hpp"

namespace gradstep {

// Numbers of either type, or of none: then all are `missing`.
struct Numbers {
  void* data = nullptr;
  DType type = kFloat64;
  double missing = 0;
  double operator[](int64_t i) const {
    if (!data) return missing;
    return value_at(data, type, i);
  }
  void set(int64_t i, double value) const { set_value(data, type, i, value); }
};

}  // namespace gradstep
