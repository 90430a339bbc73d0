// The two layouts of a channel. Spatial lanes: element i of a piece goes to virtual lane i % 16.
// Channel lanes: every channel is a lane, or 16 of them where rows are narrow. Lanes are doubles,
// folded in halves at the end of a tile.
#pragma once
#include "isa/norm/formulas.hpp"

namespace gradstep::GRADSTEP_ISA::norm {

// Channels whose sums stay in L1 while their pieces, which lie side by side, are read.
inline constexpr int64_t kSpatialStrip = 32;

struct Spatial {
  // `ahead`: from this piece to the one that is read next.
  template <class T>
  static ALWAYS_INLINE void add_shifted(const T* x, int64_t n, T shift, int64_t ahead,
                                        TwoRows* sums) {
    TwoRows local = *sums;
    const f64 wide_shift = f64{} + static_cast<double>(shift);
    parts<T>(
        n, shift,
        [&](int i, int64_t at, auto part) __attribute__((always_inline)) {
          if (i == 0) prefetch(x, at + ahead);
          const f64 d = widened(part) - wide_shift;
          local.add(i, d, d * d);
        },
        x);
    *sums = local;
  }

  template <class T, bool kRelu>
  static ALWAYS_INLINE void add_gradient(const T* dy, const T* x, int64_t n, double mean,
                                         const Affine<T>& y, int64_t ahead, TwoRows* sums) {
    TwoRows local = *sums;
    parts<T>(
        n, T{},
        [&](int i, int64_t at, auto g, auto value) __attribute__((always_inline)) {
          if (i == 0) prefetch(dy, at + ahead), prefetch(x, at + ahead);
          if (kRelu) g = rectified(y(value), g);
          const f64 wide = widened(g);
          local.add(i, wide, wide * (widened(value) - mean));
        },
        dy, x);
    *sums = local;
  }

  // f(channel, first element, from there to the piece read next) for all pieces of channels
  // [first, last).
  template <class F>
  static ALWAYS_INLINE void pieces(const NormTile& tile, int64_t first, int64_t last, const F& f) {
    const int64_t back = (last - first - 1) * tile.size;
    for (int64_t n = 0; n < tile.pieces; ++n)
      for (int64_t c = first; c < last; ++c)
        f(c, n * tile.stride + c * tile.size, c + 1 < last ? tile.size : tile.stride - back);
  }

  template <class T, bool kCentred>
  static void moments_as(const void* data, const NormTile& tile, ShiftedSums* channels) {
    const T* x = static_cast<const T*>(data);
    for (int64_t first = 0; first < tile.channels; first += kSpatialStrip) {
      const int64_t last =
          first + kSpatialStrip < tile.channels ? first + kSpatialStrip : tile.channels;
      TwoRows sums[kSpatialStrip];
      T shift[kSpatialStrip];
      for (int64_t c = first; c < last; ++c) {
        sums[c - first] = TwoRows::zero();
        shift[c - first] = kCentred ? x[c * tile.size] : T{};
      }
      pieces(tile, first, last, [&](int64_t c, int64_t at, int64_t ahead) {
        add_shifted(x + at, tile.size, shift[c - first], ahead, sums + (c - first));
      });
      for (int64_t c = first; c < last; ++c)
        channels[c] = {static_cast<double>(shift[c - first]), total(sums[c - first].a),
                       total(sums[c - first].b)};
    }
  }

  template <class T, bool kRelu>
  static void gradient_sums_as(const T* dy, const T* x, const NormTile& tile, const double* mean,
                               const Scale<T>& y, GradientSums* channels) {
    for (int64_t first = 0; first < tile.channels; first += kSpatialStrip) {
      const int64_t last =
          first + kSpatialStrip < tile.channels ? first + kSpatialStrip : tile.channels;
      TwoRows sums[kSpatialStrip];
      for (int64_t c = first; c < last; ++c) sums[c - first] = TwoRows::zero();
      pieces(tile, first, last, [&](int64_t c, int64_t at, int64_t ahead) {
        add_gradient<T, kRelu>(dy + at, x + at, tile.size, mean[c],
                               kRelu ? y.of_channel(c) : Affine<T>{}, ahead, sums + (c - first));
      });
      for (int64_t c = first; c < last; ++c)
        channels[c] = {total(sums[c - first].a), total(sums[c - first].b)};
    }
  }

  // Pieces backwards: the last ones read are those still in cache.
  template <class T, bool kRelu>
  static void scale_as(const T* x, T* y, const NormTile& tile, const Scale<T>& scale,
                       bool past_cache) {
    for (int64_t n = tile.pieces - 1; n >= 0; --n)
      for (int64_t c = 0; c < tile.channels; ++c) {
        const int64_t at = n * tile.stride + c * tile.size;
        const Affine<T> affine = scale.of_channel(c);
        const auto f = [&](auto value) __attribute__((always_inline)) {
          value = affine(value);
          return kRelu ? rectified(value, value) : value;
        };
        fill(y + at, tile.size, past_cache, f, x + at);
      }
  }

  template <class T, bool kWithX, bool kRelu>
  static void gradient_as(const T* dy, const T* x, T* dx, const NormTile& tile,
                          const Slopes<T>& slopes, const Scale<T>& y, bool past_cache) {
    for (int64_t n = tile.pieces - 1; n >= 0; --n)
      for (int64_t c = 0; c < tile.channels; ++c) {
        const int64_t at = n * tile.stride + c * tile.size;
        const Affine<T> affine = kRelu ? y.of_channel(c) : Affine<T>{};
        const Slope<T> slope = slopes.of_channel(c, kWithX);
        const auto with_x = [&](auto g, auto value) __attribute__((always_inline)) {
          if (kRelu) g = rectified(affine(value), g);
          return kWithX ? slope(g, value) : g * slope.of_dy;
        };
        const auto without = [&](auto g) __attribute__((always_inline)) { return g * slope.of_dy; };
        if constexpr (kWithX || kRelu)
          fill(dx + at, tile.size, past_cache, with_x, dy + at, x + at);
        else
          fill(dx + at, tile.size, past_cache, without, dy + at);
      }
  }
};

// Channel lanes: an array of doubles per column of a strip, in L1, that eight rows at a time are
// added to.
struct Columns {
  static constexpr int64_t kStrip = 1024, kRowsAtOnce = 8;
  static_assert(kNormNarrow * kNormFold <= kStrip);

  struct Sums {
    double a[kStrip], b[kStrip];
  };

  // body(ValueType<V>, j, from, to): columns j of the rows [from, to), V being f64 or double, for
  // all columns of a strip that starts at column `first`, then for the next eight rows.
  template <class Body>
  static ALWAYS_INLINE void blocks(int64_t rows, int64_t width, const Body& body) {
    int64_t from = 0;
    for (; from + kRowsAtOnce <= rows; from += kRowsAtOnce)
      sweep<double>(width, [&](auto type, int64_t j) __attribute__((always_inline)) {
        body(type, j, from, from + kRowsAtOnce);
      });
    for (; from < rows; ++from)
      sweep<double>(width, [&](auto type, int64_t j)
                               __attribute__((always_inline)) { body(type, j, from, from + 1); });
  }

  // The tile as rows of the lanes: `full` whole ones, and `rest` elements of one more.
  struct Lanes {
    int64_t width, stride, full, rest;
    explicit Lanes(const NormTile& tile)
        : width(tile.channels * tile.size),
          stride(tile.stride * tile.size),
          full(tile.pieces / tile.size),
          rest(tile.pieces % tile.size * tile.channels) {}
  };

  // add(ValueType<V>, offset, column, &a, &b) for every element of the tile, strip by strip;
  // then done(first column, columns of the strip, sums).
  template <class Add, class Done>
  static ALWAYS_INLINE void reduce(const NormTile& tile, const Add& add, const Done& done) {
    const Lanes lanes(tile);
    for (int64_t first = 0; first < lanes.width; first += kStrip) {
      const int64_t left = lanes.width - first, width = left < kStrip ? left : kStrip;
      Sums sums;
      for (int64_t j = 0; j < width; ++j) sums.a[j] = sums.b[j] = 0;
      const auto step = [&](auto type, int64_t j, int64_t from, int64_t to)
                            __attribute__((always_inline)) {
                              typedef typename decltype(type)::type V;
                              V a = load<V>(sums.a + j), b = load<V>(sums.b + j);
                              for (int64_t r = from; r < to; ++r)
                                add(type, r * lanes.stride + first + j, first + j, &a, &b);
                              store(sums.a + j, a);
                              store(sums.b + j, b);
                            };
      blocks(lanes.full, width, step);
      sweep<double>(lanes.rest, [&](auto type, int64_t j) __attribute__((always_inline)) {
        step(type, j, lanes.full, lanes.full + 1);
      });
      done(first, width, &sums);
    }
  }

  // Folds the lanes of a channel in halves, so that channel c is left in sums[c].
  static ALWAYS_INLINE void fold(const NormTile& tile, Sums* sums) {
    for (int64_t half = tile.size / 2; half > 0; half /= 2)
      for (int64_t j = 0; j < half * tile.channels; ++j) {
        sums->a[j] = sums->a[j] + sums->a[j + half * tile.channels];
        sums->b[j] = sums->b[j] + sums->b[j + half * tile.channels];
      }
  }

  template <class T, bool kCentred>
  static void moments_as(const void* data, const NormTile& tile, ShiftedSums* channels) {
    static_assert(kCentred);
    const T* x = static_cast<const T*>(data);
    T repeated[kStrip];
    const bool folded = tile.size > 1;
    for (int64_t j = 0; folded && j < tile.channels * tile.size; ++j)
      repeated[j] = x[j % tile.channels];
    const T* shift = folded ? repeated : x;
    reduce(
        tile,
        [&](auto type, int64_t at, int64_t j, auto* a, auto* b) __attribute__((always_inline)) {
          typedef typename PartOf<typename decltype(type)::type, T>::type P;
          const auto d = widened(load<P>(x + at)) - widened(load<P>(shift + j));
          *a = *a + d;
          *b = *b + d * d;
        },
        [&](int64_t first, int64_t width, Sums* sums) {
          fold(tile, sums);
          for (int64_t c = 0; c < width / tile.size; ++c)
            channels[first + c] = {static_cast<double>(shift[first + c]), sums->a[c], sums->b[c]};
        });
  }

  template <class T, bool kRelu>
  static void gradient_sums_as(const T* dy, const T* x, const NormTile& tile, const double* mean,
                               const Scale<T>& y, GradientSums* channels) {
    reduce(
        tile,
        [&](auto type, int64_t at, int64_t j, auto* a, auto* b) __attribute__((always_inline)) {
          typedef typename decltype(type)::type V;
          typedef typename PartOf<V, T>::type P;
          const P value = load<P>(x + at);
          P g = load<P>(dy + at);
          if (kRelu) g = rectified(y.of_channels(value, j), g);
          const V wide = widened(g);
          *a = *a + wide;
          *b = *b + wide * (widened(value) - load<V>(mean + j));
        },
        [&](int64_t first, int64_t width, Sums* sums) {
          fold(tile, sums);
          for (int64_t c = 0; c < width / tile.size; ++c)
            channels[first + c] = {sums->a[c], sums->b[c]};
        });
  }

  // body(ValueType<V>, element, column) for all elements, stored to y. Whole rows are one run,
  // whose vectors may begin in one row and end in the next: coefficients go on after their last
  // column.
  template <class T, class Body>
  static ALWAYS_INLINE void fill_columns(T* y, const NormTile& tile, bool past_cache,
                                         const Body& body) {
    const Lanes lanes(tile);
    const bool whole = tile.stride == tile.channels;
    if (whole)
      return fill_run(y, lanes.full * lanes.width + lanes.rest, lanes.width, past_cache, body);
    for (int64_t r = lanes.full - 1; r >= 0; --r) {
      const int64_t at = r * lanes.stride;
      fill_run(y + at, lanes.width, lanes.width, false,
               [&](auto type, int64_t i, int64_t j)
                   __attribute__((always_inline)) { return body(type, at + i, j); });
    }
  }

  // Element by element around the vectors, whose columns a mask would tear apart.
  template <class T, class Body>
  static ALWAYS_INLINE void fill_run(T* y, int64_t n, int64_t width, bool past_cache,
                                     const Body& body) {
    typedef typename Native<T>::type V;
    int64_t column = 0;
    const auto next = [&](int64_t step) __attribute__((always_inline)) {
      const int64_t j = column;
      column = j + step >= width ? j + step - width : j + step;
      return j;
    };
    const auto part = [&](int64_t i, int64_t count) __attribute__((always_inline)) {
      for (const int64_t end = i + count; i < end; ++i) y[i] = body(ValueType<T>{}, i, next(1));
    };
    if (width < kLanes<V, T>) return part(0, n);
    write(
        y, n, past_cache,
        [&](int64_t i)
            __attribute__((always_inline)) { return body(ValueType<V>{}, i, next(kLanes<V, T>)); },
        part);
  }

  template <class T, bool kRelu>
  static void scale_as(const T* x, T* y, const NormTile& tile, const Scale<T>& scale,
                       bool past_cache) {
    fill_columns(y, tile, past_cache,
                 [&](auto type, int64_t at, int64_t j) __attribute__((always_inline)) {
                   typedef typename decltype(type)::type V;
                   const V value = scale.of_channels(load<V>(x + at), j);
                   return kRelu ? rectified(value, value) : value;
                 });
  }

  template <class T, bool kWithX, bool kRelu>
  static void gradient_as(const T* dy, const T* x, T* dx, const NormTile& tile,
                          const Slopes<T>& slopes, const Scale<T>& y, bool past_cache) {
    fill_columns(dx, tile, past_cache,
                 [&](auto type, int64_t at, int64_t j) __attribute__((always_inline)) {
                   typedef typename decltype(type)::type V;
                   V g = load<V>(dy + at);
                   if (kRelu) g = rectified(y.of_channels(load<V>(x + at), j), g);
                   if (!kWithX) return g * load<V>(slopes.of_dy + j);
                   return slopes.of_channels(g, load<V>(x + at), j);
                 });
  }
};

// What the table holds: the choice among variants.
template <class L, class T>
struct Layout {
  static void scale(const void* x, void* y, const NormTile& tile, const NormScale& how,
                    bool past_cache) {
    const auto run = how.relu ? L::template scale_as<T, true> : L::template scale_as<T, false>;
    run(static_cast<const T*>(x), static_cast<T*>(y), tile, Scale<T>(&how), past_cache);
    if (past_cache) stream_fence();
  }

  static void gradient_sums(const void* dy, const void* x, const NormTile& tile, const double* mean,
                            const NormScale* y, GradientSums* channels) {
    const auto run =
        y ? L::template gradient_sums_as<T, true> : L::template gradient_sums_as<T, false>;
    run(static_cast<const T*>(dy), static_cast<const T*>(x), tile, mean, Scale<T>(y), channels);
  }

  static void gradient(const void* dy, const void* x, void* dx, const NormTile& tile,
                       const NormSlopes& slopes, const NormScale* y, bool past_cache) {
    const auto run =
        slopes.of_x
            ? (y ? L::template gradient_as<T, true, true> : L::template gradient_as<T, true, false>)
            : (y ? L::template gradient_as<T, false, true>
                 : L::template gradient_as<T, false, false>);
    run(static_cast<const T*>(dy), static_cast<const T*>(x), static_cast<T*>(dx), tile,
        Slopes<T>(slopes), Scale<T>(y), past_cache);
    if (past_cache) stream_fence();
  }

  static constexpr NormLayout table = {L::template moments_as<T, true>, scale, gradient_sums,
                                       gradient};
};

}  // namespace gradstep::GRADSTEP_ISA::norm
