// Normalisation: the formulas, and the loops that both layouts and the rows share.
#pragma once
#include "isa/elementwise.hpp"
#include "isa/norm/table.hpp"
#include "isa/reduce.hpp"

namespace gradstep::GRADSTEP_ISA::norm {

// As many values of T as V has lanes, where V is f64 or double.
template <class V, class T>
struct PartOf {
  typedef T type;
};
template <>
struct PartOf<f64, float> {
  typedef half_f32 type;
};
template <>
struct PartOf<f64, double> {
  typedef f64 type;
};

// The value y, or dy at it, behind the ReLU of y: NaN is kept.
template <class V>
ALWAYS_INLINE V rectified(V y, V value) {
  return y <= V{} ? V{} : value;
}

// The formulas of one channel with scalar coefficients (T), or of some with vectors of them.
template <class C>
struct Affine {
  C shift, scale, offset;
  template <class V>
  ALWAYS_INLINE V operator()(V x) const {
    return (x - shift) * scale + offset;
  }
};

template <class C>
struct Slope {
  C of_dy, of_x, constant, shift, invstd;
  template <class V>
  ALWAYS_INLINE V operator()(V dy, V x) const {
    return (of_dy * dy + of_x * ((x - shift) * invstd)) + constant;
  }
};

template <class T>
struct Scale {
  const T *shift, *scale, *offset;
  explicit Scale(const NormScale* s)
      : shift(s ? static_cast<const T*>(s->shift) : nullptr),
        scale(s ? static_cast<const T*>(s->scale) : nullptr),
        offset(s ? static_cast<const T*>(s->offset) : nullptr) {}
  ALWAYS_INLINE Affine<T> of_channel(int64_t c) const { return {shift[c], scale[c], offset[c]}; }
  template <class V>
  ALWAYS_INLINE V of_channels(V x, int64_t c) const {
    return Affine<V>{load<V>(shift + c), load<V>(scale + c), load<V>(offset + c)}(x);
  }
};

template <class T>
struct Slopes {
  const T *of_dy, *of_x, *constant, *shift, *invstd;
  explicit Slopes(const NormSlopes& s)
      : of_dy(static_cast<const T*>(s.of_dy)),
        of_x(static_cast<const T*>(s.of_x)),
        constant(static_cast<const T*>(s.constant)),
        shift(static_cast<const T*>(s.shift)),
        invstd(static_cast<const T*>(s.invstd)) {}
  ALWAYS_INLINE Slope<T> of_channel(int64_t c, bool with_x) const {
    if (!with_x) return {of_dy[c], {}, {}, {}, {}};
    return {of_dy[c], of_x[c], constant[c], shift[c], invstd[c]};
  }
  template <class V>
  ALWAYS_INLINE V of_channels(V dy, V x, int64_t c) const {
    return Slope<V>{load<V>(of_dy + c), load<V>(of_x + c), load<V>(constant + c),
                    load<V>(shift + c), load<V>(invstd + c)}(dy, x);
  }
};

// body(i, at, parts of x...) for the 16 lanes of every row of n elements, in parts of Row::kWidth
// that start at `at`: i is the number of the part in its row. The last row is filled with `rest`.
template <class T, class Body, class... X>
ALWAYS_INLINE void parts(int64_t n, T rest, const Body& body, const X*... x) {
  typedef typename PartOf<f64, T>::type P;
  int64_t at = 0;
  for (; at + kSumLanes <= n; at += kSumLanes)
    for (int i = 0; i < Row::kVectors; ++i) {
      const int64_t from = at + i * Row::kWidth;
      body(i, from, load<P>(x + from)...);
    }
  for (int i = 0; at < n; ++i, at += Row::kWidth) {
    if (at + Row::kWidth <= n)
      body(i, at, load<P>(x + at)...);
    else
      body(i, at, load_first<P>(x + at, n - at, rest)...);
  }
}

struct TwoRows {
  Row a, b;
  static ALWAYS_INLINE TwoRows zero() { return {Row::filled(0), Row::filled(0)}; }
  ALWAYS_INLINE void add(int i, f64 to_a, f64 to_b) {
    a.v[i] = a.v[i] + to_a;
    b.v[i] = b.v[i] + to_b;
  }
};

ALWAYS_INLINE double total(const Row& row) { return row.fold(Add{}); }

}  // namespace gradstep::GRADSTEP_ISA::norm
