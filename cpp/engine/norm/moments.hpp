// Mean and variance of parts, put together.
#pragma once
#include "isa/norm/table.hpp"

namespace gradstep {

// m2: the sum of squared deviations from the mean.
struct Moments {
  double count = 0, mean = 0, m2 = 0;
  double variance() const { return count > 0 ? m2 / count : 0; }
};

Moments moments_of(const ShiftedSums& sums, int64_t elements);
// Of both parts together: Chan, Golub & LeVeque 1979.
Moments merged(const Moments& a, const Moments& b);

// 1 / sqrt(variance + eps), and 0 where both are 0, so that a constant channel gives its bias.
double inverse_deviation(double variance, double eps);

}  // namespace gradstep
