// Normalisation over whole arrays: the tiles, the threads, and the few numbers per channel.
#pragma once
#include <vector>

#include "kernels.hpp"
#include "norm_kernels.hpp"

namespace gradstep {

// Fewer elements than this are done by the calling thread, which keeps the GIL.
inline constexpr int64_t kNormSerial = 32768;

// Channels of an array. Spatial lanes: (pieces, channels, size). Channel lanes: (pieces, channels).
struct NormShape {
  NormLanes lanes;
  DType type;
  int64_t pieces, channels, size;
  int64_t elements() const { return pieces * channels * size; }
};

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

// Rows of `size` elements with weight and bias by element (null: 1 and 0).
struct RowNorm {
  DType type;
  int64_t rows, size;
  const void *dy, *x;  // dy: backward only
  void* y;             // or dx
  const void *weight, *bias;
  Numbers dweight{}, dbias{};  // backward
  bool centred;                // layer norm, not RMS norm
  double eps;
  double *mean, *invstd;  // of every row: written forward, read backward; no mean if not centred
};

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

void batch_moments(const NormShape&, const void* x, Moments* channels);
void forward(const BatchNormForward&);
void backward(const BatchNormBackward&);
void forward(const RowNorm&);
void backward(const RowNorm&);
void forward(const GroupNorm&);
void backward(const GroupNorm&);

}  // namespace gradstep
