// The few numbers per channel that come from outside, and from what size on normalisation is
// shared.
#pragma once
#include "isa/table.hpp"

namespace gradstep {

// Fewer elements than this are done by the calling thread, which keeps the GIL.
inline constexpr int64_t kNormSerial = 32768;

// Numbers of either type, or of none: then all are `missing`.
struct Numbers {
  void* data = nullptr;
  DType type = kFloat64;
  double missing = 0;
  double operator[](int64_t i) const {
    if (!data) return missing;
    return type == kFloat32 ? static_cast<const float*>(data)[i]
                            : static_cast<const double*>(data)[i];
  }
  void set(int64_t i, double value) const {
    if (type == kFloat32)
      static_cast<float*>(data)[i] = static_cast<float>(value);
    else
      static_cast<double*>(data)[i] = value;
  }
};

}  // namespace gradstep
