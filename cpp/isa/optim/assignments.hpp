// Formulas on the optimizers' engine that are not optimizers: gradient clipping, moving averages,
// and the loops without arithmetic that benchmarks take as the limit of the memory.
#pragma once
#include "isa/optim/update.hpp"

namespace gradstep::GRADSTEP_ISA::optim {

// p = prepared g; with g = p this scales or clips in place.
template <class T>
struct Assign {
  explicit Assign(const Hyper&) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g) const {
    p = g;
  }
};

// Exponentially weighted average: average = beta average + (1 - beta) x.
template <class T>
struct Average {
  T beta, rest;
  explicit Average(const Hyper& h) : beta(h["beta"]), rest(1 - h["beta"]) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& average, V x) const {
    average = beta * average + rest * x;
  }
};

// The same, and in `out` the average without its bias towards 0 after h.step values.
template <class T>
struct CorrectedAverage : Average<T> {
  T weight;  // of the values seen so far
  explicit CorrectedAverage(const Hyper& h) : Average<T>(h), weight(1 - power(h["beta"], h.step)) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& average, V x, V& out) const {
    average = this->beta * average + this->rest * x;
    out = average / weight;
  }
};

// The bytes of an optimizer with 0 to 3 state arrays, without its arithmetic.
template <class T>
struct Traffic0 : Assign<T> {
  using Assign<T>::Assign;
};
template <class T>
struct Traffic1 {
  explicit Traffic1(const Hyper&) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& a) const {
    p = a, a = g;
  }
};
template <class T>
struct Traffic2 {
  explicit Traffic2(const Hyper&) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& a, V& b) const {
    p = a, a = b, b = g;
  }
};
template <class T>
struct Traffic3 {
  explicit Traffic3(const Hyper&) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& a, V& b, V& c) const {
    p = a, a = b, b = c, c = g;
  }
};

#define ASSIGNMENTS(X)       \
  X(Assign)                  \
  X(Average)                 \
  X(CorrectedAverage, "out") \
  X(Traffic0)                \
  X(Traffic1, "a")           \
  X(Traffic2, "a", "b")      \
  X(Traffic3, "a", "b", "c")

}  // namespace gradstep::GRADSTEP_ISA::optim
