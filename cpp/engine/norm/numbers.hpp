// The few numbers per channel that come from outside.
#pragma once
#include <algorithm>

#include "engine/halves.hpp"

namespace gradstep {

// Numbers of one type, or of none: then all are `missing`.
struct Numbers {
  void* data = nullptr;
  DType type = kFloat64;
  double missing = 0;
  double operator[](int64_t i) const {
    if (!data) return missing;
    return number_at(data, type, i);
  }
  void set(int64_t i, double value) const { set(i, 1, &value); }
  void set(int64_t first, int64_t n, const double* values) const {
    set_numbers(data, type, first, n, values);
  }
  // n of them from `first` on.
  void read(int64_t first, int64_t n, double* to) const {
    if (!data)
      std::fill_n(to, n, missing);
    else if (is_half(type))
      for (int64_t i = 0; i < n; ++i) to[i] = number_at(data, type, first + i);
    else
      with_type(type, [&]<class T>() { std::copy_n(static_cast<const T*>(data) + first, n, to); });
  }
};

}  // namespace gradstep
