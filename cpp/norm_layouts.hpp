// The two layouts of a channel. Spatial lanes: element i of a piece goes to virtual lane i % 16.
// Channel lanes: every channel is a lane, or 16 of them where rows are narrow. Lanes are doubles,
// folded in halves at the end of a tile.
#pragma once
#include "norm.hpp"

namespace gradstep::GRADSTEP_ISA {

// Channels whose sums stay in L1 while their pieces, which lie side by side, are read.
inline constexpr int64_t kSpatialStrip = 32;

struct Spatial {
  template <class T, bool kCentred>
  static void moments_as(const void* data, const NormTile& tile, ShiftedSums* channels) {
    const T* x = static_cast<const T*>(data);
    for (int64_t first = 0; first < tile.channels; first += kSpatialStrip) {
      const int64_t left = tile.channels - first,
                    count = left < kSpatialStrip ? left : kSpatialStrip;
      TwoRows sums[kSpatialStrip];
      T shift[kSpatialStrip];
      for (int64_t c = 0; c < count; ++c) {
        sums[c] = TwoRows::zero();
        shift[c] = kCentred ? x[(first + c) * tile.size] : T{};
      }
      for (int64_t n = 0; n < tile.pieces; ++n)
        for (int64_t c = 0; c < count; ++c)
          add_shifted(x + n * tile.stride + (first + c) * tile.size, tile.size, shift[c], sums + c);
      for (int64_t c = 0; c < count; ++c)
        channels[first + c] = {static_cast<double>(shift[c]), total(sums[c].a), total(sums[c].b)};
    }
  }

  // Pieces backwards: the last ones read are those still in cache.
  template <class T, bool kRelu>
  static void scale_as(const T* x, T* y, const NormTile& tile, const Scale<T>& scale, bool stream) {
    for (int64_t n = tile.pieces - 1; n >= 0; --n)
      for (int64_t c = 0; c < tile.channels; ++c) {
        const int64_t at = n * tile.stride + c * tile.size;
        const Affine<T> affine = scale.of_channel(c);
        fill(y + at, tile.size, stream, [&](auto type, int64_t i) __attribute__((always_inline)) {
          typedef typename decltype(type)::type V;
          const V value = affine(load<V>(x + at + i));
          return kRelu ? rectified(value, value) : value;
        });
      }
  }

  template <class T, bool kRelu>
  static ALWAYS_INLINE void add_gradient(const T* dy, const T* x, int64_t n, double mean,
                                         const Affine<T>& y, TwoRows* sums) {
    TwoRows local = *sums;
    parts<T>(
        n, T{},
        [&](int i, auto g, auto value) __attribute__((always_inline)) {
          if (kRelu) g = rectified(y(value), g);
          const f64 wide = widened(g);
          local.add(i, wide, wide * (widened(value) - mean));
        },
        dy, x);
    *sums = local;
  }

  template <class T, bool kRelu>
  static void gradient_sums_as(const T* dy, const T* x, const NormTile& tile, const double* mean,
                               const Scale<T>& y, GradientSums* channels) {
    for (int64_t first = 0; first < tile.channels; first += kSpatialStrip) {
      const int64_t left = tile.channels - first,
                    count = left < kSpatialStrip ? left : kSpatialStrip;
      TwoRows sums[kSpatialStrip];
      for (int64_t c = 0; c < count; ++c) sums[c] = TwoRows::zero();
      for (int64_t n = 0; n < tile.pieces; ++n)
        for (int64_t c = first; c < first + count; ++c) {
          const int64_t at = n * tile.stride + c * tile.size;
          add_gradient<T, kRelu>(dy + at, x + at, tile.size, mean[c],
                                 kRelu ? y.of_channel(c) : Affine<T>{}, sums + (c - first));
        }
      for (int64_t c = 0; c < count; ++c)
        channels[first + c] = {total(sums[c].a), total(sums[c].b)};
    }
  }

  template <class T, bool kWithX, bool kRelu>
  static void gradient_as(const T* dy, const T* x, T* dx, const NormTile& tile,
                          const Slopes<T>& slopes, const Scale<T>& y, bool stream) {
    for (int64_t n = tile.pieces - 1; n >= 0; --n)
      for (int64_t c = 0; c < tile.channels; ++c) {
        const int64_t at = n * tile.stride + c * tile.size;
        const Affine<T> affine = kRelu ? y.of_channel(c) : Affine<T>{};
        const Slope<T> slope = slopes.of_channel(c, kWithX);
        fill(dx + at, tile.size, stream, [&](auto type, int64_t i) __attribute__((always_inline)) {
          typedef typename decltype(type)::type V;
          V g = load<V>(dy + at + i);
          if (kRelu) g = rectified(affine(load<V>(x + at + i)), g);
          if (!kWithX) return g * slope.of_dy;
          return slope(g, load<V>(x + at + i));
        });
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
    for (int64_t from = 0; from < rows; from += kRowsAtOnce) {
      const int64_t to = rows - from < kRowsAtOnce ? rows : from + kRowsAtOnce;
      sweep<double>(width, [&](auto type, int64_t j)
                               __attribute__((always_inline)) { body(type, j, from, to); });
    }
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

  // body(row's first element, elements of it) for the rows of the lanes, backwards.
  template <class Body>
  static ALWAYS_INLINE void rows_backwards(const NormTile& tile, const Body& body) {
    const Lanes lanes(tile);
    body(lanes.full * lanes.stride, lanes.rest);
    for (int64_t r = lanes.full - 1; r >= 0; --r) body(r * lanes.stride, lanes.width);
  }

  template <class T, bool kRelu>
  static void scale_as(const T* x, T* y, const NormTile& tile, const Scale<T>& scale, bool stream) {
    rows_backwards(tile, [&](int64_t at, int64_t n) __attribute__((always_inline)) {
      fill(y + at, n, stream, [&](auto type, int64_t j) __attribute__((always_inline)) {
        typedef typename decltype(type)::type V;
        const V value = scale.of_channels(load<V>(x + at + j), j);
        return kRelu ? rectified(value, value) : value;
      });
    });
  }

  template <class T, bool kWithX, bool kRelu>
  static void gradient_as(const T* dy, const T* x, T* dx, const NormTile& tile,
                          const Slopes<T>& slopes, const Scale<T>& y, bool stream) {
    rows_backwards(tile, [&](int64_t at, int64_t n) __attribute__((always_inline)) {
      fill(dx + at, n, stream, [&](auto type, int64_t j) __attribute__((always_inline)) {
        typedef typename decltype(type)::type V;
        V g = load<V>(dy + at + j);
        if (kRelu) g = rectified(y.of_channels(load<V>(x + at + j), j), g);
        if (!kWithX) return g * load<V>(slopes.of_dy + j);
        return slopes.of_channels(g, load<V>(x + at + j), j);
      });
    });
  }
};

// What the table holds: the choice among variants.
template <class L, class T>
struct Layout {
  static void scale(const void* x, void* y, const NormTile& tile, const NormScale& how,
                    bool stream) {
    const auto run = how.relu ? L::template scale_as<T, true> : L::template scale_as<T, false>;
    run(static_cast<const T*>(x), static_cast<T*>(y), tile, Scale<T>(&how), stream);
    if (stream) finish_stores();
  }

  static void gradient_sums(const void* dy, const void* x, const NormTile& tile, const double* mean,
                            const NormScale* y, GradientSums* channels) {
    const auto run =
        y ? L::template gradient_sums_as<T, true> : L::template gradient_sums_as<T, false>;
    run(static_cast<const T*>(dy), static_cast<const T*>(x), tile, mean, Scale<T>(y), channels);
  }

  static void gradient(const void* dy, const void* x, void* dx, const NormTile& tile,
                       const NormSlopes& slopes, const NormScale* y, bool stream) {
    const auto run =
        slopes.of_x
            ? (y ? L::template gradient_as<T, true, true> : L::template gradient_as<T, true, false>)
            : (y ? L::template gradient_as<T, false, true>
                 : L::template gradient_as<T, false, false>);
    run(static_cast<const T*>(dy), static_cast<const T*>(x), static_cast<T*>(dx), tile,
        Slopes<T>(slopes), Scale<T>(y), stream);
    if (stream) finish_stores();
  }

  static constexpr NormLayout table = {L::template moments_as<T, true>, scale, gradient_sums,
                                       gradient};
};

}  // namespace gradstep::GRADSTEP_ISA
