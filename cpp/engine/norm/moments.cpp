#include "engine/norm/moments.hpp"

#include <cmath>

namespace gradstep {

Moments merged(const Moments& a, const Moments& b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  const double count = a.count + b.count, delta = b.mean - a.mean, share = b.count / count;
  return {count, a.mean + delta * share, (a.m2 + b.m2) + (delta * delta) * (a.count * share)};
}

double inverse_deviation(double variance, double eps) {
  return variance == 0 && eps == 0 ? 0 : 1 / std::sqrt(variance + eps);
}

Moments moments_of(const ShiftedSums& sums, int64_t elements) {
  const double count = static_cast<double>(elements), offset = sums.sum / count;
  return {count, sums.shift + offset, sums.squares - sums.sum * offset};
}

}  // namespace gradstep
