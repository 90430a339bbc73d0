#include "engine/norm/batch_norm.hpp"

#include <vector>

#include "engine/cache_policy.hpp"
#include "engine/dispatch.hpp"
#include "engine/norm/coefficients.hpp"
#include "engine/norm/tiles.hpp"

namespace gradstep {

namespace {

// What the tiles of an array gave: one result for every tile and channel.
template <class Result>
class Partial {
 public:
  Partial(const NormTiles& tiles, int64_t channels)
      : channels_(channels), results_(tiles.count() * channels) {}
  Result* of(int64_t t, int64_t c) { return results_.data() + t * channels_ + c; }

 private:
  int64_t channels_;
  std::vector<Result> results_;
};

Moments total(const NormTiles& tiles, Partial<ShiftedSums>& partial, int64_t c) {
  Moments all;
  for (int64_t t = 0; t < tiles.count(); ++t)
    all = merged(all, moments_of(*partial.of(t, c), tiles.elements(t)));
  return all;
}

GradientSums total(const NormTiles& tiles, Partial<GradientSums>& partial, int64_t c) {
  GradientSums all{0, 0};
  for (int64_t t = 0; t < tiles.count(); ++t)
    all = {all.dy + partial.of(t, c)->dy, all.dy_x + partial.of(t, c)->dy_x};
  return all;
}

// The tiles of an array in the type of the formulas: where they are, or, of 16 bits, widened one
// after the other.
template <size_t kInputs>
class TileValues {
 public:
  TileValues(const NormTiles& tiles, const NormShape& shape)
      : tiles_(tiles), shape_(shape), size_(whole_lines(tiles.part_elements())) {
    if (is_half(shape.type)) scratch_.emplace(size_ * static_cast<int64_t>(kInputs));
  }

  // compute(x, y, tile, first channel) for channels [first, last) of tile t; y null: no results.
  template <class Compute>
  void parts(int64_t t, int64_t first, int64_t last, const std::array<const void*, kInputs>& inputs,
             void* y, bool past_cache, const Compute& compute) const {
    const DType type = shape_.type;
    const bool half = is_half(type);
    tiles_.parts(t, first, last, half, [&](int64_t begin, const NormTile& tile, int64_t c) {
      std::array<const void*, kInputs> x;
      if (!half) {
        for (size_t k = 0; k < kInputs; ++k) x[k] = at(inputs[k], type, begin);
        return compute(x, y ? at(y, type, begin) : nullptr, tile, c);
      }
      const Scratch::Part part(*scratch_);
      const bool rows = shape_.lanes == kChannelLanes;
      const int64_t run = tile.channels * (rows ? 1 : tile.size);
      const int64_t stride = run + (rows && run < tile.stride ? kNormGap : 0);
      for (size_t k = 0; k < kInputs; ++k) {
        float* to = part.data() + k * size_;
        x[k] = to;
        for (int64_t n = 0; n < tile.pieces; ++n)
          widen(type, inputs[k], begin + n * tile.stride, run, to + n * stride);
      }
      const NormTile compact{tile.pieces, stride, tile.channels, tile.size};
      compute(x, static_cast<void*>(part.data()), compact, c);
      if (!y) return;
      for (int64_t n = 0; n < tile.pieces; ++n)
        narrow(type, part.data() + n * stride, y, begin + n * tile.stride, run, past_cache);
      end_narrow(past_cache);
    });
  }

 private:
  const NormTiles& tiles_;
  const NormShape& shape_;
  int64_t size_;
  std::optional<Scratch> scratch_;
};

template <class T>
class Forward {
 public:
  explicit Forward(const BatchNormForward& job)
      : job_(job),
        tiles_(job.shape),
        kernels_(active_table().norm->layout[job.shape.lanes][value_type(job.shape.type)]),
        partial_(tiles_, job.training ? job.shape.channels : 0),
        coefficients_(job.shape.channels, tiles_.fold()),
        values_(tiles_, job.shape),
        past_cache_(past_cache(job.shape.bytes(), job.y, {job.x})),
        directly_(past_cache_ && !is_half(job.shape.type)) {}

  void run() {
    const auto finish_all = [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) finish(c);
    };
    const auto apply_all = [&](int64_t t, int64_t first, int64_t last) { apply(t, first, last); };
    if (!job_.training) return tiles_.one_sweep(finish_all, apply_all);
    tiles_.two_sweeps(
        bytes_of(job_.shape.type),
        [&](int64_t t, int64_t first, int64_t last) { reduce(t, first, last); }, finish_all,
        apply_all);
  }

 private:
  void reduce(int64_t t, int64_t first, int64_t last) {
    values_.parts(t, first, last, {job_.x}, nullptr, false,
                  [&](const auto& x, void*, const NormTile& tile, int64_t c) {
                    kernels_.moments(x[0], tile, partial_.of(t, c));
                  });
  }

  void finish(int64_t c) {
    double mean = job_.running_mean[c], variance = job_.running_var[c];
    if (job_.training) {
      const Moments moments = total(tiles_, partial_, c);
      mean = moments.mean;
      variance = moments.variance();
      if (job_.running_mean.data && moments.count > 0) update_running(c, moments);
    }
    job_.mean[c] = mean;
    job_.invstd[c] = inverse_deviation(variance, job_.eps);
    set_affine(&coefficients_, c, mean, job_.weight[c] * job_.invstd[c], job_.bias[c]);
  }

  void update_running(int64_t c, const Moments& moments) {
    const double momentum = job_.momentum, keep = 1 - momentum;
    const double unbiased = moments.m2 / (moments.count - 1);
    job_.running_mean.set(c, keep * job_.running_mean[c] + momentum * moments.mean);
    job_.running_var.set(c, keep * job_.running_var[c] + momentum * unbiased);
  }

  void apply(int64_t t, int64_t first, int64_t last) {
    values_.parts(t, first, last, {job_.x}, job_.y, past_cache_,
                  [&](const auto& x, void* y, const NormTile& tile, int64_t c) {
                    kernels_.scale(x[0], y, tile, affine_at(coefficients_, c, job_.relu),
                                   directly_);
                  });
  }

  const BatchNormForward& job_;
  NormTiles tiles_;
  const NormLayout& kernels_;
  Partial<ShiftedSums> partial_;
  Coefficients<T, 3> coefficients_;
  TileValues<1> values_;
  bool past_cache_, directly_;  // the latter: from the kernels
};

template <class T>
class Backward {
 public:
  explicit Backward(const BatchNormBackward& job)
      : job_(job),
        tiles_(job.shape),
        kernels_(active_table().norm->layout[job.shape.lanes][value_type(job.shape.type)]),
        partial_(tiles_, job.shape.channels),
        means_(job.shape.channels, tiles_.fold()),
        affine_(job.shape.channels, tiles_.fold()),
        slopes_(job.shape.channels, tiles_.fold()),
        values_(tiles_, job.shape),
        count_(static_cast<double>(job.shape.pieces * job.shape.size)),
        past_cache_(past_cache(job.shape.bytes(), job.dx, {job.dy, job.x})),
        directly_(past_cache_ && !is_half(job.shape.type)) {
    for (int64_t c = 0; c < job.shape.channels; ++c) {
      means_.set(0, c, job.mean[c]);
      set_affine(&affine_, c, job.mean[c], job.weight[c] * job.invstd[c], job.bias[c]);
    }
  }

  void run() {
    tiles_.two_sweeps(
        2 * bytes_of(job_.shape.type),
        [&](int64_t t, int64_t first, int64_t last) { reduce(t, first, last); },
        [&](int64_t first, int64_t last) {
          for (int64_t c = first; c < last; ++c) finish(c);
        },
        [&](int64_t t, int64_t first, int64_t last) { apply(t, first, last); });
  }

 private:
  void reduce(int64_t t, int64_t first, int64_t last) {
    values_.parts(t, first, last, {job_.dy, job_.x}, nullptr, false,
                  [&](const auto& in, void*, const NormTile& tile, int64_t c) {
                    const NormScale y = affine_at(affine_, c, true);
                    kernels_.gradient_sums(in[0], in[1], tile, means_.row(0, c),
                                           job_.relu ? &y : nullptr, partial_.of(t, c));
                  });
  }

  // dx = g (dy - mean(dy) - xhat mean(dy xhat)), g = weight invstd: Ioffe & Szegedy 2015
  // (arXiv:1502.03167). With running statistics dx = g dy.
  void finish(int64_t c) {
    const GradientSums sums = total(tiles_, partial_, c);
    const double mean = job_.mean[c], invstd = job_.invstd[c], shift = static_cast<T>(mean);
    const double g = job_.weight[c] * invstd, dweight = sums.dy_x * invstd;
    const double by_x = -(g * dweight) / count_;
    job_.dbias.set(c, sums.dy);
    job_.dweight.set(c, dweight);
    slopes_.set(0, c, g);
    slopes_.set(1, c, by_x);
    slopes_.set(2, c, by_x * ((shift - mean) * invstd) - g * (sums.dy / count_));
    slopes_.set(3, c, shift);
    slopes_.set(4, c, invstd);
  }

  void apply(int64_t t, int64_t first, int64_t last) {
    values_.parts(
        t, first, last, {job_.dy, job_.x}, job_.dx, past_cache_,
        [&](const auto& in, void* dx, const NormTile& tile, int64_t c) {
          const NormScale y = affine_at(affine_, c, true);
          const NormSlopes slopes{slopes_.row(0, c), job_.training ? slopes_.row(1, c) : nullptr,
                                  slopes_.row(2, c), slopes_.row(3, c), slopes_.row(4, c)};
          kernels_.gradient(in[0], in[1], dx, tile, slopes, job_.relu ? &y : nullptr, directly_);
        });
  }

  const BatchNormBackward& job_;
  NormTiles tiles_;
  const NormLayout& kernels_;
  Partial<GradientSums> partial_;
  Coefficients<double, 1> means_;
  Coefficients<T, 3> affine_;
  Coefficients<T, 5> slopes_;
  TileValues<2> values_;
  double count_;
  bool past_cache_, directly_;  // the latter: from the kernels
};

}  // namespace

void batch_moments(const NormShape& shape, const void* x, Moments* channels) {
  const NormTiles tiles(shape);
  Partial<ShiftedSums> partial(tiles, shape.channels);
  const NormLayout& kernels = active_table().norm->layout[shape.lanes][value_type(shape.type)];
  const TileValues<1> values(tiles, shape);
  tiles.two_sweeps(
      bytes_of(shape.type),
      [&](int64_t t, int64_t first, int64_t last) {
        values.parts(t, first, last, {x}, nullptr, false,
                     [&](const auto& in, void*, const NormTile& tile, int64_t c) {
                       kernels.moments(in[0], tile, partial.of(t, c));
                     });
      },
      [&](int64_t first, int64_t last) {
        for (int64_t c = first; c < last; ++c) channels[c] = total(tiles, partial, c);
      },
      [](int64_t, int64_t, int64_t) {});
}

void forward(const BatchNormForward& job) {
  with_type(value_type(job.shape.type), [&]<class T>() { Forward<T>(job).run(); });
}

void backward(const BatchNormBackward& job) {
  with_type(value_type(job.shape.type), [&]<class T>() { Backward<T>(job).run(); });
}

}  // namespace gradstep
