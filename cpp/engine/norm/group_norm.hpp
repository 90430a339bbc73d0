// Group norm and, with groups of one channel, instance norm over whole arrays.
#pragma once
#include "engine/norm/numbers.hpp"

namespace gradstep {

// Groups of neighbouring channels of a sample: (samples, channels, size), `groups` per sample.
struct GroupNorm {
  DType type;
  int64_t samples, channels, groups, size;
  const void *dy, *x;  // dy: backward only
  void* y;             // or dx
  Numbers weight{.missing = 1}, bias{}, dweight{}, dbias{};
  double eps;
  double *mean, *invstd;  // of every group of every sample: written forward, read backward
};

void forward(const GroupNorm&);
void backward(const GroupNorm&);

}  // namespace gradstep
