#include "engine/norm/batch_norm.hpp"

#include <algorithm>
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

// Channels that are finished together, in loops whose questions are asked once.
constexpr int64_t kTogether = 64;

// f(first, n) for the channels [first, last), n of them at a time.
template <class F>
void together(int64_t first, int64_t last, const F& f) {
  for (; first < last; first += kTogether) f(first, std::min(kTogether, last - first));
}

// Of n channels from `first` on.
void total(const NormTiles& tiles, Partial<ShiftedSums>& partial, int64_t first, int64_t n,
           Moments* all) {
  std::fill_n(all, n, Moments{});
  for (int64_t t = 0; t < tiles.count(); ++t) {
    const ShiftedSums* sums = partial.of(t, first);
    const int64_t elements = tiles.elements(t);
    for (int64_t i = 0; i < n; ++i) all[i] = merged(all[i], moments_of(sums[i], elements));
  }
}

void total(const NormTiles& tiles, Partial<GradientSums>& partial, int64_t first, int64_t n,
           GradientSums* all) {
  std::fill_n(all, n, GradientSums{0, 0});
  for (int64_t t = 0; t < tiles.count(); ++t) {
    const GradientSums* sums = partial.of(t, first);
    for (int64_t i = 0; i < n; ++i) all[i] = {all[i].dy + sums[i].dy, all[i].dy_x + sums[i].dy_x};
  }
}

template <class T>
void set_affine(Coefficients<T, 3>* rows, int64_t first, int64_t n, const double* mean,
                const double* scale, const double* bias) {
  double offset[kTogether];
  for (int64_t i = 0; i < n; ++i) offset[i] = affine_offset<T>(mean[i], scale[i], bias[i]);
  rows->set(0, first, n, mean);
  rows->set(1, first, n, scale);
  rows->set(2, first, n, offset);
}

// The tiles of an array in the type of the formulas: where they are, or, of 16 bits, widened one
// after the other.
template <size_t kInputs>
class TileValues {
 public:
  TileValues(const NormTiles& tiles, const NormShape& shape)
      : shape_(shape),
        size_(whole_lines(std::max(tiles.part_elements(), tiles.fine().part_elements()))) {
    if (is_half(shape.type)) scratch_.emplace(size_ * static_cast<int64_t>(kInputs));
  }

  // compute(x, y, tile, first channel) for channels [first, last) of tile t; y null: no results.
  template <class Compute>
  void parts(const NormTiles& tiles, int64_t t, int64_t first, int64_t last,
             const std::array<const void*, kInputs>& inputs, void* y, bool past_cache,
             const Compute& compute) const {
    const DType type = shape_.type;
    const bool half = is_half(type);
    tiles.parts(t, first, last, half, [&](int64_t begin, const NormTile& tile, int64_t c) {
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
      together(first, last, [&](int64_t c, int64_t n) { finish(c, n); });
    };
    const auto apply_all = [&](const NormTiles& tiles, int64_t t, int64_t first, int64_t last) {
      apply(tiles, t, first, last);
    };
    if (!job_.training) {
      finish_all(0, job_.shape.channels);
      return tiles_.one_sweep(apply_all);
    }
    tiles_.two_sweeps(
        bytes_of(job_.shape.type),
        [&](int64_t t, int64_t first, int64_t last) { reduce(t, first, last); }, finish_all,
        apply_all);
  }

 private:
  void reduce(int64_t t, int64_t first, int64_t last) {
    values_.parts(tiles_, t, first, last, {job_.x}, nullptr, false,
                  [&](const auto& x, void*, const NormTile& tile, int64_t c) {
                    kernels_.moments(x[0], tile, partial_.of(t, c));
                  });
  }

  void finish(int64_t first, int64_t n) {
    double *mean = job_.mean + first, *invstd = job_.invstd + first;
    double variance[kTogether], scale[kTogether], bias[kTogether];
    if (job_.training) {
      statistics(first, n, mean, variance);
    } else {
      job_.running_mean.read(first, n, mean);
      job_.running_var.read(first, n, variance);
    }
    job_.weight.read(first, n, scale);
    job_.bias.read(first, n, bias);
    for (int64_t i = 0; i < n; ++i) {
      invstd[i] = inverse_deviation(variance[i], job_.eps);
      scale[i] *= invstd[i];
    }
    set_affine(&coefficients_, first, n, mean, scale, bias);
  }

  void statistics(int64_t first, int64_t n, double* mean, double* variance) {
    Moments moments[kTogether];
    total(tiles_, partial_, first, n, moments);
    for (int64_t i = 0; i < n; ++i) {
      mean[i] = moments[i].mean;
      variance[i] = moments[i].variance();
    }
    if (!job_.running_mean.data || tiles_.count() == 0) return;
    const double momentum = job_.momentum, keep = 1 - momentum;
    double running_mean[kTogether], running_var[kTogether];
    job_.running_mean.read(first, n, running_mean);
    job_.running_var.read(first, n, running_var);
    for (int64_t i = 0; i < n; ++i) {
      const double unbiased = moments[i].m2 / (moments[i].count - 1);
      running_mean[i] = keep * running_mean[i] + momentum * moments[i].mean;
      running_var[i] = keep * running_var[i] + momentum * unbiased;
    }
    job_.running_mean.set(first, n, running_mean);
    job_.running_var.set(first, n, running_var);
  }

  void apply(const NormTiles& tiles, int64_t t, int64_t first, int64_t last) {
    values_.parts(tiles, t, first, last, {job_.x}, job_.y, past_cache_,
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
    means_.set(0, 0, job.shape.channels, job.mean);
    if (job.relu) together(0, job.shape.channels, [&](int64_t c, int64_t n) { find_affine(c, n); });
  }

  void run() {
    tiles_.two_sweeps(
        2 * bytes_of(job_.shape.type),
        [&](int64_t t, int64_t first, int64_t last) { reduce(t, first, last); },
        [&](int64_t first, int64_t last) {
          together(first, last, [&](int64_t c, int64_t n) { finish(c, n); });
        },
        [&](const NormTiles& tiles, int64_t t, int64_t first, int64_t last) {
          apply(tiles, t, first, last);
        });
  }

 private:
  void reduce(int64_t t, int64_t first, int64_t last) {
    values_.parts(tiles_, t, first, last, {job_.dy, job_.x}, nullptr, false,
                  [&](const auto& in, void*, const NormTile& tile, int64_t c) {
                    const NormScale y = affine_at(affine_, c, true);
                    kernels_.gradient_sums(in[0], in[1], tile, means_.row(0, c),
                                           job_.relu ? &y : nullptr, partial_.of(t, c));
                  });
  }

  // dx = g (dy - mean(dy) - xhat mean(dy xhat)), g = weight invstd: Ioffe & Szegedy 2015
  // (arXiv:1502.03167). With running statistics dx = g dy.
  void finish(int64_t first, int64_t n) {
    const double *mean = job_.mean + first, *invstd = job_.invstd + first;
    GradientSums sums[kTogether];
    double g[kTogether], dweight[kTogether], dbias[kTogether], by_x[kTogether], rest[kTogether];
    total(tiles_, partial_, first, n, sums);
    job_.weight.read(first, n, g);
    for (int64_t i = 0; i < n; ++i) {
      g[i] *= invstd[i];
      dbias[i] = sums[i].dy;
      dweight[i] = sums[i].dy_x * invstd[i];
      by_x[i] = -(g[i] * dweight[i]) / count_;
      const double shift = static_cast<T>(mean[i]);
      rest[i] = by_x[i] * ((shift - mean[i]) * invstd[i]) - g[i] * (sums[i].dy / count_);
    }
    job_.dbias.set(first, n, dbias);
    job_.dweight.set(first, n, dweight);
    slopes_.set(0, first, n, g);
    slopes_.set(1, first, n, by_x);
    slopes_.set(2, first, n, rest);
    slopes_.set(3, first, n, mean);
    slopes_.set(4, first, n, invstd);
  }

  // Of the forward pass, whose results tell where its relu stopped.
  void find_affine(int64_t first, int64_t n) {
    double scale[kTogether], bias[kTogether];
    job_.weight.read(first, n, scale);
    job_.bias.read(first, n, bias);
    for (int64_t i = 0; i < n; ++i) scale[i] *= job_.invstd[first + i];
    set_affine(&affine_, first, n, job_.mean + first, scale, bias);
  }

  void apply(const NormTiles& tiles, int64_t t, int64_t first, int64_t last) {
    values_.parts(
        tiles, t, first, last, {job_.dy, job_.x}, job_.dx, past_cache_,
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
        values.parts(tiles, t, first, last, {x}, nullptr, false,
                     [&](const auto& in, void*, const NormTile& tile, int64_t c) {
                       kernels.moments(in[0], tile, partial.of(t, c));
                     });
      },
      [&](int64_t first, int64_t last) {
        total(tiles, partial, first, last - first, channels + first);
      },
      nullptr);
}

void forward(const BatchNormForward& job) {
  with_type(value_type(job.shape.type), [&]<class T>() { Forward<T>(job).run(); });
}

void backward(const BatchNormBackward& job) {
  with_type(value_type(job.shape.type), [&]<class T>() { Backward<T>(job).run(); });
}

}  // namespace gradstep
