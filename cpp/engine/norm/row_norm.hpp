// Layer norm and RMS norm over whole arrays.
#pragma once
#include "engine/norm/numbers.hpp"

namespace gradstep {

// Rows of `size` elements with weight and bias by element.
struct RowNorm {
  DType type;
  int64_t rows, size;
  const void *dy, *x;  // dy: backward only
  void* y;             // or dx
  Numbers weight{.missing = 1}, bias{};
  Numbers dweight{}, dbias{};  // backward
  bool centred;                // layer norm, not RMS norm
  double eps;
  double *mean, *invstd;  // of every row: written forward, read backward; no mean if not centred
};

void forward(const RowNorm&);
void backward(const RowNorm&);

}  // namespace gradstep
