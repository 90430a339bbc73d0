#include "engine/activation/cross_entropy.hpp"

#include <algorithm>

#include "engine/dispatch.hpp"
#include "engine/dtype.hpp"

namespace gradstep {

void CrossEntropy::prepare() {
  indices_.resize(rows);
  losses.resize(rows);
  for (int64_t row = 0; row < rows; ++row) {
    // Volatile: read once, so that what is checked is what is used.
    const int64_t target = targets.wide ? static_cast<const volatile int64_t*>(targets.data)[row]
                                        : static_cast<const volatile int32_t*>(targets.data)[row];
    indices_[row] = target;
    if (target == ignored) continue;
    if (target < 0 || target >= classes) {
      wrong_row = row, wrong_target = target;
      return;
    }
    taking_part_ += weights ? value_at(weights, type, target) : 1;
  }
  job_.kind = kCrossEntropy;
  job_.rows = rows;
  job_.n = classes;
  job_.inner = inner;
  job_.x = job_.dy = x;
  job_.y = dx;
  job_.targets = indices_.data();
  job_.ignored = ignored;
  job_.weights = weights;
  job_.smoothing = smoothing;
  job_.weight_sum = static_cast<double>(classes);
  job_.scale = averages ? 1 / taking_part_ : 1;
  job_.losses = losses.data();
  if (smoothing == 0) return;
  const int64_t bytes = classes * bytes_of(type);
  if (!weights) {
    ones_.resize(bytes);
    for (int64_t c = 0; c < classes; ++c) set_value(ones_.data(), type, c, 1);
    job_.weights = ones_.data();
  }
  smooth_.resize(bytes);
  job_.weight_sum = 0;
  const double share = job_.scale * (smoothing / static_cast<double>(classes));
  for (int64_t c = 0; c < classes; ++c) {
    const double weight = value_at(job_.weights, type, c);
    job_.weight_sum += weight;
    set_value(smooth_.data(), type, c, share * weight);
  }
  job_.smooth = smooth_.data();
}

double CrossEntropy::run() {
  run_softmax(job_, type);
  const double sum = active_table().loss->total(losses.data(), rows);
  return averages ? sum / taking_part_ : sum;
}

}  // namespace gradstep
