// The tiles of a NormShape, and how two sweeps over them are shared among threads.
#pragma once
#include <algorithm>
#include <type_traits>

#include "engine/norm/batch_norm.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

// Bytes that one thread may expect to find again in its cache.
inline constexpr int64_t kNormCache = 1 << 20;

// Elements between parts of rows of channels that are copied side by side, as kernels take them for
// whole rows without.
inline constexpr int64_t kNormGap = 16;

class NormTiles {
 public:
  explicit NormTiles(const NormShape& shape)
      : shape_(shape),
        fold_(shape.lanes == kChannelLanes && shape.channels < kNormNarrow ? kNormFold : 1),
        chunks_(std::max<int64_t>(1, (shape.size + kNormTile - 1) / kNormTile)),
        pieces_(shape.lanes == kChannelLanes
                    ? kNormRows
                    : std::max<int64_t>(1, kNormTile / std::max<int64_t>(1, shape.size))) {}

  // The same array in tiles of a task's size, for what is done to each element alone.
  NormTiles fine() const {
    NormTiles tiles = *this;
    if (shape_.lanes == kChannelLanes)
      tiles.pieces_ =
          std::clamp<int64_t>(tuning.task / std::max<int64_t>(1, shape_.channels), 1, pieces_);
    return tiles;
  }

  // Times that each coefficient of a channel is repeated.
  int64_t fold() const { return fold_; }
  int64_t count() const {
    return shape_.size ? (shape_.pieces + pieces_ - 1) / pieces_ * chunks_ : 0;
  }

  // Elements of one channel in tile t.
  int64_t elements(int64_t t) const { return pieces(t) * size(t); }

  // f(first element, tile, first channel) for channels [first, last) of tile t. few: with no more
  // elements than part_elements().
  template <class F>
  void parts(int64_t t, int64_t first, int64_t last, bool few, const F& f) const {
    const int64_t piece = t / chunks_ * pieces_, chunk = t % chunks_ * kNormTile;
    const int64_t stride = shape_.channels * shape_.size;
    int64_t step = chunks_ > 1 ? 1 : last - first;
    if (few && fold_ == 1) step = std::min(step, few_channels());
    for (int64_t c = first; c < last; c += step)
      f(piece * stride + c * shape_.size + chunk,
        NormTile{pieces(t), stride, std::min(step, last - c),
                 shape_.lanes == kChannelLanes ? fold_ : size(t)},
        c);
  }

  // With kNormGap between rows of the lanes that are not whole.
  int64_t part_elements() const {
    const int64_t gap = shape_.lanes == kChannelLanes ? kNormGap : 0;
    const int64_t channels = fold_ > 1 ? shape_.channels : few_channels() + gap;
    return std::min(pieces_, shape_.pieces) * std::min(kNormTile, shape_.size) * channels;
  }

  // apply(tiles, t, 0, channels) for all of the fine tiles.
  template <class Apply>
  void one_sweep(const Apply& apply) const {
    const NormTiles tiles = fine();
    run_tasks(shape_.elements(), tiles.count(), [&](int64_t first, int64_t last) {
      for (int64_t t = last - 1; t >= first; --t) apply(tiles, t, 0, shape_.channels);
    });
  }

  // reduce(t, first, last) for all tiles and channels, finish(first, last) when all tiles of these
  // channels are reduced, then apply(tiles, t, first, last), last tiles first. A block of channels
  // that fits the cache is finished before the next is begun; otherwise threads share the tiles.
  // Where all fits, they share channels, then rows: results that two of them write side by side in
  // every row would go back and forth between their caches. apply: nullptr for nothing.
  template <class Reduce, class Finish, class Apply>
  void two_sweeps(int64_t bytes_per_element, const Reduce& reduce, const Finish& finish,
                  const Apply& apply) const {
    const int64_t channels = shape_.channels, tiles = count();
    const int64_t elements = shape_.elements(), block = channel_block(bytes_per_element);
    constexpr bool kTwo = !std::is_null_pointer_v<Apply>;
    const auto second = [&] {
      if constexpr (kTwo) one_sweep(apply);
    };
    if (block == 0 || !worth_sharing(elements)) {
      run_tasks(elements, tiles, [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t) reduce(t, 0, channels);
      });
      finish(0, channels);
      return second();
    }
    if (shape_.lanes == kChannelLanes && elements * bytes_per_element <= kNormCache) {
      const int64_t threads = ThreadPool::instance().threads(),
                    lines = (channels + kNormLine - 1) / kNormLine;
      const int64_t width = (lines + threads - 1) / threads * kNormLine;
      run_tasks(elements, (channels + width - 1) / width, [&](int64_t begin, int64_t end) {
        const int64_t first = begin * width, last = std::min(end * width, channels);
        for (int64_t t = 0; t < tiles; ++t) reduce(t, first, last);
        finish(first, last);
      });
      return second();
    }
    run_tasks(elements, (channels + block - 1) / block, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        const int64_t c = b * block, end = std::min(c + block, channels);
        for (int64_t t = 0; t < tiles; ++t) reduce(t, c, end);
        finish(c, end);
        if constexpr (kTwo)
          for (int64_t t = tiles - 1; t >= 0; --t) apply(*this, t, c, end);
      }
    });
  }

 private:
  int64_t pieces(int64_t t) const {
    return std::min(pieces_, shape_.pieces - t / chunks_ * pieces_);
  }
  int64_t size(int64_t t) const {
    return std::min(kNormTile, shape_.size - t % chunks_ * kNormTile);
  }

  // Channels that one thread does at a time, 0 when tiles are to be shared instead.
  int64_t channel_block(int64_t bytes_per_element) const {
    const int64_t threads = ThreadPool::instance().threads();
    const int64_t least = shape_.lanes == kChannelLanes ? kNormLine : 1;
    const int64_t bytes = shape_.pieces * shape_.size * bytes_per_element;  // of a channel
    if (fold_ > 1 || (least > 1 && bytes * least > kNormCache / 2)) return 0;
    if (shape_.channels < 4 * threads * least) return threads > 1 ? 0 : least;
    const int64_t fits = kNormCache / 2 / std::max<int64_t>(1, bytes);
    const int64_t fair = shape_.channels / (4 * threads);
    return std::max(least, std::min(fits, fair) / least * least);
  }

  // Channels that are a few elements together, of spatial lanes no more than two tiles.
  int64_t few_channels() const {
    if (shape_.lanes == kChannelLanes) return kNormLine;
    const int64_t elements = pieces_ * std::clamp<int64_t>(shape_.size, 1, kNormTile);
    return std::max<int64_t>(2 * kNormTile / elements, 1);
  }

  static constexpr int64_t kNormLine = 64;  // channels whose part of a row is worth a visit

  NormShape shape_;
  int64_t fold_, chunks_, pieces_;
};

}  // namespace gradstep
