// The squared error with its gradient, and the sum of many losses.
#pragma once
#include "isa/reduce.hpp"

namespace gradstep::GRADSTEP_ISA::loss {

template <class T>
static void squared_error(int64_t n, const void* prediction, const void* target, void* gradient,
                          double scale, double* blocks) {
  typedef typename Native<T>::type V;
  const T factor = scale;
  sum_row<true, T>(n, static_cast<const T*>(prediction), static_cast<const T*>(target),
                   static_cast<T*>(gradient), 0, blocks,
                   [&](const T* a, const T* b, T* out) __attribute__((always_inline)) {
                     T difference[kSumLanes];
                     for (int64_t i = 0; i < kSumLanes; i += kLanes<V, T>) {
                       const V d = load<V>(a + i) - load<V>(b + i);
                       store(difference + i, d);
                       store(out + i, d * factor);
                     }
                     Row row = Row::of(difference);
                     for (int i = 0; i < Row::kVectors; ++i) row.v[i] = row.v[i] * row.v[i];
                     return row;
                   });
}

static double total(const double* x, int64_t n) {
  double sum = 0;
  for (int64_t at = 0; at < n; at += kSumBlock) {
    double block;
    sum_row<false, double>(n - at < kSumBlock ? n - at : kSumBlock, x + at, x + at, nullptr, 0,
                           &block,
                           [](const double* a, const double*, double*)
                               __attribute__((always_inline)) { return Row::of(a); });
    sum += block;
  }
  return sum;
}

}  // namespace gradstep::GRADSTEP_ISA::loss
