// Compiled once per ISA: the functions of math.hpp and the activations over arrays.
#include "tests/isa/math_cases.hpp"

#include "isa/activation/activations.hpp"

namespace gradstep::GRADSTEP_ISA {

template <class T, class Function>
static void apply(int64_t n, const T* x, T* y, const Function& function) {
  sweep<T>(n, [&](auto type, int64_t i) __attribute__((always_inline)) {
    typedef typename decltype(type)::type V;
    store(y + i, function(load<V>(x + i)));
  });
}

template <class T>
static void evaluate(test::Function function, int64_t n, const T* x, T* y) {
  switch (function) {
    case test::kExp:
      return apply(n, x, y, [](auto v) __attribute__((always_inline)) { return exp(v); });
    case test::kLog:
      return apply(n, x, y, [](auto v) __attribute__((always_inline)) { return log(v); });
    case test::kTanh:
      return apply(n, x, y, [](auto v) __attribute__((always_inline)) {
        return activation::Tanh<T>(0).forward(v);
      });
    case test::kSigmoid:
      return apply(n, x, y, [](auto v) __attribute__((always_inline)) { return sigmoid(v); });
    case test::kSilu:
      return apply(n, x, y, [](auto v) __attribute__((always_inline)) {
        return activation::Silu<T>(0).forward(v);
      });
    case test::kGelu:
      return apply(n, x, y, [](auto v) __attribute__((always_inline)) {
        return activation::Gelu<T>(0).forward(v);
      });
    case test::kGeluTanh:
      return apply(n, x, y, [](auto v) __attribute__((always_inline)) {
        return activation::GeluTanh<T>(0).forward(v);
      });
    case test::kSelu:
      return apply(n, x, y, [](auto v) __attribute__((always_inline)) {
        return activation::Selu<T>(0).forward(v);
      });
    case test::kMish:
      return apply(n, x, y, [](auto v) __attribute__((always_inline)) {
        return activation::Mish<T>(0).forward(v);
      });
  }
}

extern const test::MathCases kMathCases;
const test::MathCases kMathCases = {evaluate<float>, evaluate<double>};

}  // namespace gradstep::GRADSTEP_ISA
