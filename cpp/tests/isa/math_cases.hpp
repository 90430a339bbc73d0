#pragma once
#include <cstdint>

namespace gradstep::test {

enum Function { kExp, kLog, kTanh, kSigmoid, kSilu, kGelu, kGeluTanh, kSelu, kMish };

struct MathCases {
  void (*f32)(Function, int64_t n, const float* x, float* y);
  void (*f64)(Function, int64_t n, const double* x, double* y);
};

}  // namespace gradstep::test
