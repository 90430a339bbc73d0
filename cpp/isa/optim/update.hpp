// The loop of an optimizer, and what happens to a gradient before its formula.
#pragma once
#include "isa/elementwise.hpp"
#include "isa/optim/table.hpp"

namespace gradstep::GRADSTEP_ISA::optim {

// f(p, g, state...) for n elements, of which the caller has `reach` to do: p and state are written,
// g is read.
template <class F, class T, class... S>
ALWAYS_INLINE void update(const F& f, int64_t n, int64_t reach, T* p, const T* g, S*... state) {
  sweep<T>(n, [&](auto type, int64_t i) __attribute__((always_inline)) {
    typedef typename decltype(type)::type V;
    ask_ahead<T>(i, reach, p, g, state...);
    V value = load<V>(p + i);
    [&](auto... s) __attribute__((always_inline)) {
      f(value, load<V>(g + i), s...);
      store(p + i, value);
      (store(state + i, s), ...);
    }(load<V>(state + i)...);
  });
}

// base^exponent by repeated squaring: IEEE multiplications only, so every machine gets the same
// bits, which libm's pow does not promise.
[[maybe_unused]] static double power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent; exponent >>= 1, base *= base)
    if (exponent & 1) result *= base;
  return result;
}

// Moves an average of parameters towards what these are now.
struct Weights {
  float decay, rest;

  explicit Weights(const Hyper& h) : Weights(h.get("ema_decay", 0)) {}
  explicit Weights(double share) : decay(float(share)), rest(float(1 - share)) {}

  template <class V>
  ALWAYS_INLINE V operator()(V average, V p) const {
    return decay * average + rest * p;
  }
};

// The gradient as the formula sees it: scaled (and negated to maximize), clipped by value, with the
// penalties l1 |p| and l2/2 p^2 added, in this order.
template <class T>
struct Preparation {
  T scale, limit, l1, l2;
  bool active;

  explicit Preparation(const Hyper& h)
      : scale(h["maximize"] != 0 ? -h.scale : h.scale),
        limit(h["clip_value"]),
        l1(h["l1"]),
        l2(h["l2"]),
        active(scale != 1 || limit < __builtin_inf() || l1 != 0 || l2 != 0) {}

  template <class V>
  ALWAYS_INLINE V operator()(V g, V p) const {
    g = g * scale;
    if (limit < __builtin_inf()) g = clamp(g, V{} + limit);
    if (l1 != 0) g = g + l1 * sign(p);
    if (l2 != 0) g = g + l2 * p;
    return g;
  }
};

// Not inlined: one copy serves every formula.
template <class T>
__attribute__((noinline)) static void prepare_block(const Preparation<T>& prepare, int64_t n,
                                                    int64_t reach, T* prepared, const T* g,
                                                    const T* p) {
  const Preparation<T> local = prepare;
  sweep<T>(n, [&](auto type, int64_t i) __attribute__((always_inline)) {
    typedef typename decltype(type)::type V;
    ask_ahead<T>(i, reach, g);
    store(prepared + i, local(load<V>(g + i), load<V>(p + i)));
  });
}

// A prepared gradient never goes to memory: it is made block by block in a buffer that stays in L1,
// so the plain case pays nothing and preparation is compiled once, not once per formula.
template <class F, class T, class... S>
ALWAYS_INLINE void update_prepared(const F& f, const Preparation<T>& prepare, int64_t n,
                                   int64_t reach, T* p, const T* g, S*... state) {
  constexpr int64_t kBlock = 1024;
  alignas(64) T prepared[kBlock];
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t size = n - at < kBlock ? n - at : kBlock;
    prepare_block(prepare, size, reach - at, prepared, g + at, p + at);
    update(f, size, reach - at, p + at, prepared, (state + at)...);
  }
}

}  // namespace gradstep::GRADSTEP_ISA::optim
