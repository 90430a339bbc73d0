// The element-wise loops and their tails, and what happens to a gradient before a formula.
#pragma once
#include "kernels.hpp"
#include "simd.hpp"

namespace gradstep::GRADSTEP_ISA {

template <class V>
struct ValueType {
  typedef V type;
};

// body(ValueType<V>, i) for every i of [0, n): on vectors, then on scalars with the same text.
template <class T, class Body>
ALWAYS_INLINE void sweep(int64_t n, const Body& body) {
  typedef typename Native<T>::type V;
  int64_t i = 0;
  for (; i + kLanes<V, T> <= n; i += kLanes<V, T>) body(ValueType<V>{}, i);
  for (; i < n; ++i) body(ValueType<T>{}, i);
}

// The first n elements, fewer than V has lanes, and `rest` in the other lanes.
template <class V, class T>
ALWAYS_INLINE V load_first(const T* x, int64_t n, T rest) {
#if defined(__AVX512F__)
  const V v = V{} + rest;
  const uint32_t mask = (uint32_t{1} << n) - 1;
  if constexpr (sizeof(V) == 32)
    return (V)_mm256_mask_loadu_ps((__m256)v, static_cast<__mmask8>(mask), x);
  else if constexpr (sizeof(T) == 4)
    return (V)_mm512_mask_loadu_ps((__m512)v, static_cast<__mmask16>(mask), x);
  else
    return (V)_mm512_mask_loadu_pd((__m512d)v, static_cast<__mmask8>(mask), x);
#else
  T first[kLanes<V, T>];
  store(first, V{} + rest);
  for (int64_t i = 0; i < n; ++i) first[i] = x[i];
  return load<V>(first);
#endif
}

// The first n lanes of v, not all of them, to y.
template <class V, class T>
ALWAYS_INLINE void store_first(T* y, int64_t n, V v) {
#if defined(__AVX512F__)
  const uint32_t mask = (uint32_t{1} << n) - 1;
  if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_ps(y, static_cast<__mmask16>(mask), (__m512)v);
  else
    _mm512_mask_storeu_pd(y, static_cast<__mmask8>(mask), (__m512d)v);
#else
  T all[kLanes<V, T>];
  store(all, v);
  for (int64_t i = 0; i < n; ++i) y[i] = all[i];
#endif
}

// Elements before the first address of a whole vector.
template <class T>
ALWAYS_INLINE int64_t unaligned(const T* y, int64_t n) {
  const auto past = reinterpret_cast<uintptr_t>(y) % kBytes;
  const int64_t count = past ? static_cast<int64_t>((kBytes - past) / sizeof(T)) : 0;
  return count < n ? count : n;
}

// y[i] = f(x[i]...) for every i of [0, n), on vectors only: f may be long, and is compiled for them
// alone. After stores past the cache the caller owes a stream_fence().
template <class T, class F, class... X>
ALWAYS_INLINE void fill(T* y, int64_t n, bool past_cache, const F& f, const X*... x) {
  typedef typename Native<T>::type V;
  constexpr int64_t kWidth = kLanes<V, T>;
  const auto first = [&](int64_t i, int64_t count) __attribute__((always_inline)) {
    store_first(y + i, count, f(load_first<V>(x + i, count, T{})...));
  };
  int64_t i = 0;
  if (past_cache) {
    i = unaligned(y, n);
    if (i) first(0, i);
    for (; i + kWidth <= n; i += kWidth) store_past_cache(y + i, f(load<V>(x + i)...));
  }
  for (; i + kWidth <= n; i += kWidth) store(y + i, f(load<V>(x + i)...));
  if (i < n) first(i, n - i);
}

// Asks for what lies GRADSTEP_PREFETCH bytes ahead, if anything. `python -m bench.sweeps prefetch`
// builds with some: none was faster than what the CPU fetches by itself.
template <class T>
ALWAYS_INLINE void prefetch_ahead([[maybe_unused]] const T* x) {
  if constexpr (GRADSTEP_PREFETCH > 0)
    __builtin_prefetch(
        reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(x) + GRADSTEP_PREFETCH));
}

// f(p, g, state...) for every element: p and state are written, g is read.
template <class F, class T, class... S>
ALWAYS_INLINE void update(const F& f, int64_t n, T* p, const T* g, S*... state) {
  sweep<T>(n, [&](auto type, int64_t i) __attribute__((always_inline)) {
    typedef typename decltype(type)::type V;
    prefetch_ahead(p + i), prefetch_ahead(g + i), (prefetch_ahead(state + i), ...);
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
                                                    T* prepared, const T* g, const T* p) {
  const Preparation<T> local = prepare;
  sweep<T>(n, [&](auto type, int64_t i) __attribute__((always_inline)) {
    typedef typename decltype(type)::type V;
    store(prepared + i, local(load<V>(g + i), load<V>(p + i)));
  });
}

// A prepared gradient never goes to memory: it is made block by block in a buffer that stays in L1,
// so the plain case pays nothing and preparation is compiled once, not once per formula.
template <class F, class T, class... S>
ALWAYS_INLINE void update_prepared(const F& f, const Preparation<T>& prepare, int64_t n, T* p,
                                   const T* g, S*... state) {
  constexpr int64_t kBlock = 1024;
  alignas(64) T prepared[kBlock];
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t size = n - at < kBlock ? n - at : kBlock;
    prepare_block(prepare, size, prepared, g + at, p + at);
    update(f, size, p + at, prepared, (state + at)...);
  }
}

}  // namespace gradstep::GRADSTEP_ISA
