// Batch norm over whole arrays: the tiles, the threads, and the few numbers per channel.
#pragma once
#include "engine/norm/numbers.hpp"
#include "isa/norm/table.hpp"

namespace gradstep {

// Channels of an array. Spatial lanes: (pieces, channels, size). Channel lanes: (pieces, channels).
struct NormShape {
  NormLanes lanes;
  DType type;
  int64_t pieces, channels, size;
  int64_t elements() const { return pieces * channels * size; }
  int64_t bytes() const { return elements() * bytes_of(type); }
};

struct BatchNormForward {
  NormShape shape;
  const void* x;
  void* y;
  Numbers weight{.missing = 1}, bias{}, running_mean{}, running_var{};
  bool training, relu;
  double momentum, eps;
  double *mean, *invstd;  // written: what the channels were normalised with
};

struct BatchNormBackward {
  NormShape shape;
  const void *dy, *x;
  void* dx;
  Numbers weight{.missing = 1}, bias{}, dweight{}, dbias{};
  bool training, relu;
  const double *mean, *invstd;
};

void batch_moments(const NormShape&, const void* x, Moments* channels);
void forward(const BatchNormForward&);
void backward(const BatchNormBackward&);

}  // namespace gradstep
