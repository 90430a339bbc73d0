// The few numbers per channel that kernels take, rounded once from double.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "isa/norm/table.hpp"

namespace gradstep {

// Rows of coefficients, each repeated as the lanes need it, and with kTail more from the start.
template <class T, int kRows>
class Coefficients {
 public:
  Coefficients(int64_t channels, int64_t fold)
      : channels_(channels), length_(channels * fold + kTail), values_(kRows * length_) {}
  const T* row(int r, int64_t c) const { return values_.data() + r * length_ + c; }
  // Of n channels from c on.
  void set(int r, int64_t c, int64_t n, const double* values) {
    for (int64_t at = c; n > 0 && at < length_; at += channels_) {
      T* to = values_.data() + r * length_ + at;
      const int64_t room = std::min(n, length_ - at);
      for (int64_t i = 0; i < room; ++i) to[i] = static_cast<T>(values[i]);
    }
  }

 private:
  static constexpr int64_t kTail = 16;
  int64_t channels_, length_;
  std::vector<T> values_;
};

// The same for a few channels of spatial lanes, in memory of its own: for use inside tasks.
template <class T, int kRows, int kChannels>
class FewCoefficients {
 public:
  const T* row(int r, int64_t c) const { return values_ + r * kChannels + c; }
  void set(int r, int64_t c, double value) { values_[r * kChannels + c] = static_cast<T>(value); }

 private:
  T values_[kRows * kChannels];
};

// y = (x - shift) scale + offset, with the mean rounded to T as shift and the rest of it in offset.
template <class T>
inline double affine_offset(double mean, double scale, double bias) {
  return bias - (mean - static_cast<double>(static_cast<T>(mean))) * scale;
}

template <class Rows>
inline NormScale affine_at(const Rows& rows, int64_t c, bool relu) {
  return {rows.row(0, c), rows.row(1, c), rows.row(2, c), relu};
}

}  // namespace gradstep
