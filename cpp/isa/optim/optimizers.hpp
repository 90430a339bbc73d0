// One functor per optimizer, simplest first: its scalars, computed once per step in double, then
// one formula for every value type. The list OPTIMIZERS at the end is what the rest enumerates.
//
// Notation: p parameter, g prepared gradient; `lr`, `beta1`, ... are asked for by name, `decay` is
// the decoupled weight decay (0 where the decay is coupled), h.step is t = 1, 2, ...
#pragma once
#include "isa/optim/update.hpp"

namespace gradstep::GRADSTEP_ISA::optim {

// What decoupled weight decay leaves of the parameter (Loshchilov & Hutter 2019): 1 without decay.
template <class T>
struct Shrink {
  T shrink;
  explicit Shrink(const Hyper& h) : shrink(1 - h["lr"] * h["decay"]) {}
};

// Robbins & Monro 1951.
template <class T>
struct SGD : Shrink<T> {
  T lr;
  explicit SGD(const Hyper& h) : Shrink<T>(h), lr(h["lr"]) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g) const {
    p = this->shrink * p - lr * g;
  }
};

// Polyak 1964. The buffer starts as the first gradient: nothing is damped at step 1. With
// `lr_in_momentum` the rate is inside the buffer (b = mu b + lr g; p -= b), as in Keras.
template <class T>
struct Momentum : Shrink<T> {
  T mu, keep, rate;
  explicit Momentum(const Hyper& h)
      : Shrink<T>(h),
        mu(h["momentum"]),
        keep((h.step == 1 ? 1 : 1 - h["dampening"]) * (h["lr_in_momentum"] != 0 ? h["lr"] : 1)),
        rate(h["lr_in_momentum"] != 0 ? 1 : h["lr"]) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& b) const {
    b = mu * b + keep * g;
    p = this->shrink * p - rate * b;
  }
};

// Nesterov 1983 in the form of Sutskever et al. 2013: the step looks ahead along the buffer.
template <class T>
struct Nesterov : Shrink<T> {
  T mu, keep, rate;
  explicit Nesterov(const Hyper& h)
      : Shrink<T>(h),
        mu(h["momentum"]),
        keep(h["lr_in_momentum"] != 0 ? h["lr"] : 1),
        rate(h["lr_in_momentum"] != 0 ? 1 : h["lr"]) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& b) const {
    g = keep * g;
    b = mu * b + g;
    p = this->shrink * p - rate * (g + mu * b);
  }
};

// Duchi, Hazan & Singer 2011.
template <class T>
struct Adagrad : Shrink<T> {
  T rate, eps;
  explicit Adagrad(const Hyper& h)
      : Shrink<T>(h),
        rate(h["lr"] / (1 + static_cast<double>(h.step - 1) * h["lr_decay"])),
        eps(h["eps"]) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& sum) const {
    sum = sum + g * g;
    p = this->shrink * p - rate * (g / (sqrt(sum) + eps));
  }
};

// Hinton 2012; centered (variance in place of the second moment), Graves 2013; with momentum on the
// normalised gradient.
template <class T>
struct RMSpropScalars : Shrink<T> {
  static constexpr T kLargest = sizeof(T) == 4 ? T(__FLT_MAX__) : T(__DBL_MAX__);
  T alpha, rest, eps, mu, lr;
  explicit RMSpropScalars(const Hyper& h)
      : Shrink<T>(h),
        alpha(h["alpha"]),
        rest(1 - h["alpha"]),
        eps(h["eps"]),
        mu(h["momentum"]),
        lr(h["lr"]) {}
  template <class V>
  ALWAYS_INLINE V normalized(V g, V& square_avg) const {
    square_avg = alpha * square_avg + rest * (g * g);
    return g / (sqrt(square_avg) + eps);
  }
  template <class V>
  ALWAYS_INLINE V centered(V g, V& square_avg, V& grad_avg) const {
    square_avg = alpha * square_avg + rest * (g * g);
    grad_avg = alpha * grad_avg + rest * g;
    // Finite, so that an average of squares that overflowed stays infinite.
    const V mean_square = clamp(grad_avg * grad_avg, V{} + kLargest);
    return g / (sqrt(maximum(square_avg - mean_square, V{})) + eps);
  }
  template <class V>
  ALWAYS_INLINE void move(V& p, V direction, V& buffer) const {
    buffer = mu * buffer + direction;
    p = this->shrink * p - lr * buffer;
  }
};

template <class T>
struct RMSprop : RMSpropScalars<T> {
  using RMSpropScalars<T>::RMSpropScalars;
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& square_avg) const {
    p = this->shrink * p - this->lr * this->normalized(g, square_avg);
  }
};

template <class T>
struct RMSpropMomentum : RMSpropScalars<T> {
  using RMSpropScalars<T>::RMSpropScalars;
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& square_avg, V& buffer) const {
    this->move(p, this->normalized(g, square_avg), buffer);
  }
};

template <class T>
struct CenteredRMSprop : RMSpropScalars<T> {
  using RMSpropScalars<T>::RMSpropScalars;
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& square_avg, V& grad_avg) const {
    p = this->shrink * p - this->lr * this->centered(g, square_avg, grad_avg);
  }
};

template <class T>
struct CenteredRMSpropMomentum : RMSpropScalars<T> {
  using RMSpropScalars<T>::RMSpropScalars;
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& square_avg, V& grad_avg, V& buffer) const {
    this->move(p, this->centered(g, square_avg, grad_avg), buffer);
  }
};

// Zeiler 2012 (arXiv:1212.5701); needs no rate (lr = 1).
template <class T>
struct Adadelta : Shrink<T> {
  T rho, rest, eps, lr;
  explicit Adadelta(const Hyper& h)
      : Shrink<T>(h), rho(h["rho"]), rest(1 - h["rho"]), eps(h["eps"]), lr(h["lr"]) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& square_avg, V& acc_delta) const {
    square_avg = rho * square_avg + rest * (g * g);
    const V delta = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g;
    acc_delta = rho * acc_delta + rest * (delta * delta);
    p = this->shrink * p - lr * delta;
  }
};

// What the Adam family shares: the two moments, and the root of the corrected second one written
// sqrt(v) / sqrt(1 - beta2^t) + eps.
template <class T>
struct Moments : Shrink<T> {
  T beta1, rest1, beta2, rest2, root_scale, eps;
  explicit Moments(const Hyper& h)
      : Shrink<T>(h),
        beta1(h["beta1"]),
        rest1(1 - h["beta1"]),
        beta2(h["beta2"]),
        rest2(1 - h["beta2"]),
        root_scale(1 / __builtin_sqrt(1 - power(h["beta2"], h.step))),
        eps(h["eps"]) {}
  template <class V>
  ALWAYS_INLINE void average(V g, V& m, V& v) const {
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * (g * g);
  }
  template <class V>
  ALWAYS_INLINE V denominator(V v) const {
    return sqrt(v) * root_scale + eps;
  }
};

// Kingma & Ba 2015 (arXiv:1412.6980). AdamW, Loshchilov & Hutter 2019 (arXiv:1711.05101), is this
// with decay > 0: p shrinks by 1 - lr decay first.
template <class T>
struct Adam : Moments<T> {
  T rate;
  explicit Adam(const Hyper& h) : Moments<T>(h), rate(h["lr"] / (1 - power(h["beta1"], h.step))) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& m, V& v) const {
    this->average(g, m, v);
    p = this->shrink * p - rate * (m / this->denominator(v));
  }
};

// Reddi, Kale & Kumar 2018 (arXiv:1904.09237): the largest second moment so far, uncorrected.
template <class T>
struct AMSGrad : Adam<T> {
  using Adam<T>::Adam;
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& m, V& v, V& max_v) const {
    this->average(g, m, v);
    max_v = maximum(max_v, v);
    p = this->shrink * p - this->rate * (m / this->denominator(max_v));
  }
};

// The momentum schedule of Dozat 2016: mu_t = beta1 (1 - 0.96^(t psi) / 2).
struct NesterovSchedule {
  double now, next, product;  // mu_t, mu_{t+1}, mu_1 ... mu_t

  // 0.96^psi by its Taylor series, and the powers of that by multiplication: no libm.
  // The product is taken as 0 once 1 - product is 1 in double, and its factors as beta1 once
  // 0.96^.. no longer counts, so t may be large.
  NesterovSchedule(double beta1, double psi, int64_t t) {
    const double x = psi * -0.040821994520255166;  // log 0.96
    double base = 1, term = 1;
    for (int i = 1; i <= 40; ++i) {
      term = term * x / i;
      base += term;
    }
    double decay = 1;
    product = 1;
    int64_t i = 0;
    for (; i < t && product > 0x1p-60 && decay > 0x1p-54; ++i) {
      decay *= base;
      product *= beta1 * (1 - 0.5 * decay);
    }
    product *= power(beta1, t - i);
    if (product <= 0x1p-60) product = 0;
    now = beta1 * (1 - 0.5 * power(base, t));
    next = beta1 * (1 - 0.5 * power(base, t + 1));
  }
};

// Dozat 2016.
template <class T>
struct NAdam : Moments<T> {
  T gradient_rate, moment_rate;
  explicit NAdam(const Hyper& h) : Moments<T>(h) {
    const NesterovSchedule mu(h["beta1"], h["momentum_decay"], h.step);
    gradient_rate = T(h["lr"] * (1 - mu.now) / (1 - mu.product));
    moment_rate = T(h["lr"] * mu.next / (1 - mu.product * mu.next));
  }
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& m, V& v) const {
    this->average(g, m, v);
    p = this->shrink * p - (gradient_rate * g + moment_rate * m) / this->denominator(v);
  }
};

// Kingma & Ba 2015, section 7.1: the infinity norm in place of the second moment.
template <class T>
struct Adamax : Shrink<T> {
  T beta1, rest1, beta2, eps, rate;
  explicit Adamax(const Hyper& h)
      : Shrink<T>(h),
        beta1(h["beta1"]),
        rest1(1 - h["beta1"]),
        beta2(h["beta2"]),
        eps(h["eps"]),
        rate(h["lr"] / (1 - power(h["beta1"], h.step))) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& m, V& u) const {
    m = beta1 * m + rest1 * g;
    u = maximum(beta2 * u, abs(g) + eps);
    p = this->shrink * p - rate * (m / u);
  }
};

// Liu et al. 2020 (arXiv:1908.03265): Adam with its variance rectified, and without the second
// moment while rho_t <= 5.
template <class T>
struct RAdam : Moments<T> {
  T rate;
  bool adaptive;
  explicit RAdam(const Hyper& h) : Moments<T>(h) {
    const double power2 = power(h["beta2"], h.step);
    const double rho_inf = 2 / (1 - h["beta2"]) - 1;
    const double rho = rho_inf - 2 * static_cast<double>(h.step) * power2 / (1 - power2);
    double full_rate = h["lr"] / (1 - power(h["beta1"], h.step));
    adaptive = rho > 5;
    if (adaptive) {
      const double rectification =
          __builtin_sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho));
      full_rate *= rectification * __builtin_sqrt(1 - power2);
    }
    rate = T(full_rate);
  }
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& m, V& v) const {
    this->average(g, m, v);
    const V step = adaptive ? m / (sqrt(v) + this->eps) : m;
    p = this->shrink * p - rate * step;
  }
};

// Chen et al. 2023 (arXiv:2302.06675).
template <class T>
struct Lion : Shrink<T> {
  T lr, beta1, rest1, beta2, rest2;
  explicit Lion(const Hyper& h)
      : Shrink<T>(h),
        lr(h["lr"]),
        beta1(h["beta1"]),
        rest1(1 - h["beta1"]),
        beta2(h["beta2"]),
        rest2(1 - h["beta2"]) {}
  template <class V>
  ALWAYS_INLINE void operator()(V& p, V g, V& m) const {
    p = this->shrink * p - lr * sign(beta1 * m + rest1 * g);
    m = beta2 * m + rest2 * g;
  }
};

// Name and state arrays, in the order of the formula's arguments; named as in torch.optim.
#define OPTIMIZERS(X)                                                     \
  X(SGD)                                                                  \
  X(Momentum, "momentum_buffer")                                          \
  X(Nesterov, "momentum_buffer")                                          \
  X(Adagrad, "sum")                                                       \
  X(RMSprop, "square_avg")                                                \
  X(RMSpropMomentum, "square_avg", "momentum_buffer")                     \
  X(CenteredRMSprop, "square_avg", "grad_avg")                            \
  X(CenteredRMSpropMomentum, "square_avg", "grad_avg", "momentum_buffer") \
  X(Adadelta, "square_avg", "acc_delta")                                  \
  X(Adam, "exp_avg", "exp_avg_sq")                                        \
  X(AMSGrad, "exp_avg", "exp_avg_sq", "max_exp_avg_sq")                   \
  X(NAdam, "exp_avg", "exp_avg_sq")                                       \
  X(Adamax, "exp_avg", "exp_inf")                                         \
  X(RAdam, "exp_avg", "exp_avg_sq")                                       \
  X(Lion, "exp_avg")

}  // namespace gradstep::GRADSTEP_ISA::optim
