// The activations that treat every element alone: a functor each, the formula of the forward pass
// and of the backward pass. At the end the list that everything else enumerates.
// T is the element type, V a value: a vector, or T in the tail.
#pragma once
#include <type_traits>

#include "isa/elementwise.hpp"
#include "isa/math.hpp"
#include "isa/piecewise.hpp"

namespace gradstep::GRADSTEP_ISA::activation {

// dx from dy and from what the forward pass had: `s` is x or y, as the comment says.

// Nair & Hinton 2010. s: x or y. NaN stays NaN.
template <class T>
struct Relu {
  static constexpr bool kReadsX = false, kStopsAtZero = true;
  explicit Relu(double) {}
  template <class V>
  ALWAYS_INLINE V forward(V x) const {
    return x <= V{} ? V{} : x;
  }
  template <class V>
  ALWAYS_INLINE V backward(V dy, V s) const {
    return s <= V{} ? V{} : dy;
  }
};

// Maas, Hannun & Ng 2013. s: x, or y where slope >= 0.
template <class T>
struct LeakyRelu {
  static constexpr bool kReadsX = false, kStopsAtZero = false;
  T slope;
  explicit LeakyRelu(double parameter) : slope(parameter) {}
  template <class V>
  ALWAYS_INLINE V forward(V x) const {
    return x > V{} ? x : x * slope;
  }
  template <class V>
  ALWAYS_INLINE V backward(V dy, V s) const {
    return s > V{} ? dy : dy * slope;
  }
};

// s: y.
template <class T>
struct Sigmoid {
  static constexpr bool kReadsX = false, kStopsAtZero = false;
  explicit Sigmoid(double) {}
  template <class V>
  ALWAYS_INLINE V forward(V x) const {
    return sigmoid(x);
  }
  template <class V>
  ALWAYS_INLINE V backward(V dy, V y) const {
    return dy * (T(1) - y) * y;
  }
};

// s: y.
template <class T>
struct Tanh {
  static constexpr bool kReadsX = false, kStopsAtZero = false;
  explicit Tanh(double) {}
  template <class V>
  ALWAYS_INLINE V forward(V x) const {
    if constexpr (std::is_same_v<T, float>)
      return tanh_by_intervals(x);
    else
      return tanh(x);
  }
  template <class V>
  ALWAYS_INLINE V backward(V dy, V y) const {
    return dy * (T(1) - y * y);
  }
};

// x sigmoid(x); Elfwing, Uchibe & Doya 2018. s: x. Where exp(-|x|) is 0, x may be replaced by any
// other of the kind: infinity times 0 would be NaN.
template <class T>
struct Silu {
  static constexpr bool kReadsX = true, kStopsAtZero = false;
  explicit Silu(double) {}
  template <class V>
  ALWAYS_INLINE V forward(V x) const {
    const ExpParts<V> e = exp_parts(negative_abs(x));
    const V finite = at_least(x, ConstantsOf<V>::kExpLow);
    return (x < V{} ? e.times(finite) : x) / (e.value() + T(1));
  }
  template <class V>
  ALWAYS_INLINE V backward(V dy, V x) const {
    const V e = exp_parts(negative_abs(x)).value(), d = e + T(1);
    const V finite = with_sign(at_most(abs(x), -ConstantsOf<V>::kExpLow), x);
    return dy * (((x < V{} ? e : splat<V>(1)) + finite * e / d) / d);
  }
};

// x Phi(x), Phi the distribution of a standard normal variable; Hendrycks & Gimpel 2016. s: x.
// Beyond the intervals, which is rare, float goes the way of double.
template <class T>
struct Gelu {
  static constexpr bool kReadsX = true, kStopsAtZero = false;
  explicit Gelu(double) {}
  template <class V>
  ALWAYS_INLINE V forward(V x) const {
    if constexpr (std::is_same_v<T, float>) {
      const V a = at_most(abs(x), kNormalEnd);
      const V y = at_least(x, 0) - a * by_normal_intervals(kNormalAbove, a);
      if (!any_above(abs(x), kNormalEnd)) [[likely]]
        return y;
      return abs(x) > splat<V>(kNormalEnd) ? forward_of_tail(x) : y;
    } else {
      return forward_of_tail(x);
    }
  }
  template <class V>
  ALWAYS_INLINE V backward(V dy, V x) const {
    if constexpr (std::is_same_v<T, float>) {
      const V a = at_most(abs(x), kNormalEnd), below = by_normal_intervals(kGeluSlope, a);
      const V dx = dy * (x < V{} ? below : T(1) - below);
      if (!any_above(abs(x), kNormalEnd)) [[likely]]
        return dx;
      return abs(x) > splat<V>(kNormalEnd) ? backward_of_tail(dy, x) : dx;
    } else {
      return backward_of_tail(dy, x);
    }
  }

 private:
  template <class V>
  ALWAYS_INLINE V forward_of_tail(V x) const {
    const NormalTail<V> tail = normal_tail(x);
    const V outside = tail.density.times(tail.a * tail.ratio);
    return x < V{} ? -outside : x - outside;
  }
  template <class V>
  ALWAYS_INLINE V backward_of_tail(V dy, V x) const {
    const NormalTail<V> tail = normal_tail(x);
    const V e = tail.density.value(), above = e * tail.ratio;
    const V phi = e * T(0.398942280401432678);  // 1 / sqrt(2 pi)
    const V below = x < V{} ? above : T(1) - above;
    return dy * (below + with_sign(tail.a * phi, x));
  }
};

// x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): x (1 + tanh(u)) / 2 without its cancellation;
// Hendrycks & Gimpel 2016. s: x.
template <class T>
struct GeluTanh {
  static constexpr bool kReadsX = true, kStopsAtZero = false;
  static constexpr T kLinear = T(1.59576912160573071);  // 2 sqrt(2/pi)
  static constexpr T kCubic = T(1.59576912160573071 * 0.044715);
  explicit GeluTanh(double) {}
  template <class V>
  ALWAYS_INLINE V forward(V x) const {
    const V a = at_most(abs(x), ConstantsOf<V>::kNormalTailEnd);
    const ExpParts<V> e = exp_parts(-(a * (kLinear + kCubic * (a * a))));
    return (x < V{} ? -e.times(a) : x) / (e.value() + T(1));
  }
  template <class V>
  ALWAYS_INLINE V backward(V dy, V x) const {
    const V a = at_most(abs(x), ConstantsOf<V>::kNormalTailEnd), square = a * a;
    const V e = exp_parts(-(a * (kLinear + kCubic * square))).value(), d = e + T(1);
    const V slope = with_sign(a * (kLinear + T(3) * kCubic * square), x);
    return dy * (((x < V{} ? e : splat<V>(1)) + slope * e / d) / d);
  }
};

// lambda x, or lambda alpha (exp(x) - 1) for x < 0; Klambauer et al. 2017. s: y.
template <class T>
struct Selu {
  static constexpr bool kReadsX = false, kStopsAtZero = false;
  static constexpr T kAbove = T(1.0507009873554804934), kBelow = T(1.7580993408473768599);
  explicit Selu(double) {}
  template <class V>
  ALWAYS_INLINE V forward(V x) const {
    // With m = exp(|x|) - 1, exp(-|x|) - 1 is -m / (m + 1).
    const V m = expm1_positive(at_most(abs(x), 2 * ConstantsOf<V>::kTanhOne)).value;
    return x > V{} ? x * kAbove : with_sign(m / (m + T(1)) * kBelow, x);
  }
  template <class V>
  ALWAYS_INLINE V backward(V dy, V y) const {
    return dy * (y > V{} ? splat<V>(kAbove) : y + kBelow);
  }
};

// x tanh(log(1 + exp(x))) as x a / b of polynomials in exp(-|x|); Misra 2019. s: x. Infinities as
// in Silu.
template <class T>
struct Mish {
  static constexpr bool kReadsX = true, kStopsAtZero = false;
  explicit Mish(double) {}
  template <class V>
  ALWAYS_INLINE V forward(V x) const {
    const ExpParts<V> parts = exp_parts(negative_abs(x));
    const V e = parts.value(), finite = at_least(x, ConstantsOf<V>::kExpLow);
    return (x < V{} ? parts.times(finite * (e + T(2))) : x * (e + e + T(1))) / below(x, e);
  }
  template <class V>
  ALWAYS_INLINE V backward(V dy, V x) const {
    const V e = exp_parts(negative_abs(x)).value(), d = below(x, e);
    const V above = x < V{} ? e * (e + T(2)) : e + e + T(1);
    const V finite = with_sign(at_most(abs(x), -ConstantsOf<V>::kExpLow), x);
    const V slope = (x < V{} ? e : e * e) * (e + T(1)) * T(4);
    return dy * ((above + finite * slope / d) / d);
  }
  // b; both polynomials are divided by exp(2x) where x >= 0.
  template <class V>
  static ALWAYS_INLINE V below(V x, V e) {
    return x < V{} ? e * (e + T(2)) + T(2) : (e + e) * (e + T(1)) + T(1);
  }
};

// X(functor, name)
#define ACTIVATIONS(X)       \
  X(Relu, "relu")            \
  X(LeakyRelu, "leaky_relu") \
  X(Sigmoid, "sigmoid")      \
  X(Tanh, "tanh")            \
  X(Silu, "silu")            \
  X(Gelu, "gelu")            \
  X(GeluTanh, "gelu_tanh")   \
  X(Selu, "selu")            \
  X(Mish, "mish")

}  // namespace gradstep::GRADSTEP_ISA::activation
