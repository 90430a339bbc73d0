// The element-wise loops and their tails.
#pragma once
#include "isa/simd.hpp"

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

// The first n lanes of v, up to all of them, added to y.
template <class V, class T>
ALWAYS_INLINE void add_first(T* y, int64_t n, V v) {
  if (n == kLanes<V, T>)
    store(y, load<V>(y) + v);
  else
    store_first(y, n, load_first<V>(y, n, T{}) + v);
}

// Elements before the first address of a whole vector.
template <class T>
ALWAYS_INLINE int64_t unaligned(const T* y, int64_t n) {
  const auto past = reinterpret_cast<uintptr_t>(y) % kBytes;
  const int64_t count = past ? static_cast<int64_t>((kBytes - past) / sizeof(T)) : 0;
  return count < n ? count : n;
}

// y[i] for every i of [0, n): whole(i) gives a vector of them, part(i, count) stores the few before
// and after. Past the cache no line of y is read first and none displaces what is in use, but every
// vector must be aligned, and the caller owes a stream_fence().
template <class T, class Whole, class Part>
ALWAYS_INLINE void write(T* y, int64_t n, bool past_cache, const Whole& whole, const Part& part) {
  constexpr int64_t kWidth = kLanes<typename Native<T>::type, T>;
  int64_t i = 0;
  if (past_cache) {
    i = unaligned(y, n);
    if (i) part(0, i);
    for (; i + kWidth <= n; i += kWidth) store_past_cache(y + i, whole(i));
  }
  for (; i + kWidth <= n; i += kWidth) store(y + i, whole(i));
  if (i < n) part(i, n - i);
}

// Asks for the lines that a loop over n elements of x..., now at i, comes to soon: pointers to
// const are read, others written. A CPU foresees little where much is computed between two reads,
// nothing beyond a page, and nothing that is only written. Not for what follows the n elements,
// where another thread may be writing. And not with vectors shorter than a line, where it was found
// to cost more in cache (up to a third) than it gains beyond (nothing).
template <class T, class... X>
ALWAYS_INLINE void ask_ahead(int64_t i, int64_t n, X*... x) {
  if constexpr (kBytes == 64) {
    constexpr int64_t kAhead = 2048 / sizeof(T);
    const int64_t at = i + kAhead < n ? i + kAhead : n - 1;
    (prefetch(x, at), ...);
  }
}

// Whether walks that read a row more than once ask for the next one in the last sweep, given the
// bytes of all arrays: what that sweep reads is in L1, so memory would be idle. In caches it costs
// up to a tenth.
inline constexpr int64_t kFar = int64_t{8} << 20;
ALWAYS_INLINE bool asks_last(int64_t bytes) { return bytes > kFar; }

// Asks for the lines of x[i + ahead]..., i going up by vectors, once a line.
template <class T, class... X>
ALWAYS_INLINE void ask_row(int64_t i, int64_t ahead, const X*... x) {
  constexpr int64_t kLine = 64 / sizeof(T), kWidth = kBytes / sizeof(T);
  if (i % kLine < kWidth) (prefetch(x, i + ahead), ...);
}

// y[i] = f(x[i]...) for every i of [0, n), on vectors only: f may be long, and is compiled for them
// alone. ask(i): of what is to come, before each vector.
template <class T, class Ask, class F, class... X>
ALWAYS_INLINE void fill_asking(T* y, int64_t n, bool past_cache, const Ask& ask, const F& f,
                               const X*... x) {
  typedef typename Native<T>::type V;
  write(
      y, n, past_cache,
      [&](int64_t i) __attribute__((always_inline)) {
        ask(i);
        return f(load<V>(x + i)...);
      },
      [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        store_first(y + i, count, f(load_first<V>(x + i, count, T{})...));
      });
}

template <class T, class F, class... X>
ALWAYS_INLINE void fill(T* y, int64_t n, bool past_cache, const F& f, const X*... x) {
  fill_asking(y, n, past_cache, [](int64_t) __attribute__((always_inline)) {}, f, x...);
}

// The same for arrays that may be far away.
template <class T, class F, class... X>
ALWAYS_INLINE void fill_ahead(T* y, int64_t n, bool past_cache, const F& f, const X*... x) {
  const auto ask = [&](int64_t i) __attribute__((always_inline)) {
    ask_ahead<T>(i, n, x...);
    if (!past_cache) ask_ahead<T>(i, n, y);
  };
  fill_asking(y, n, past_cache, ask, f, x...);
}

}  // namespace gradstep::GRADSTEP_ISA
