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

template <class T>
class Forward {
 public:
  explicit Forward(const BatchNormForward& job)
      : job_(job),
        tiles_(job.shape),
        kernels_(active_table().norm->layout[job.shape.lanes][job.shape.type]),
        partial_(tiles_, job.training ? job.shape.channels : 0),
        coefficients_(job.shape.channels, tiles_.fold()),
        past_cache_(past_cache(job.shape.bytes(), job.y, {job.x})) {}

  void run() {
    const auto finish_all = [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) finish(c);
    };
    const auto apply_all = [&](int64_t t, int64_t first, int64_t last) { apply(t, first, last); };
    if (!job_.training) return tiles_.one_sweep(finish_all, apply_all);
    tiles_.two_sweeps(
        sizeof(T), [&](int64_t t, int64_t first, int64_t last) { reduce(t, first, last); },
        finish_all, apply_all);
  }

 private:
  void reduce(int64_t t, int64_t first, int64_t last) {
    tiles_.parts(t, first, last, [&](int64_t begin, const NormTile& tile, int64_t c) {
      kernels_.moments(at(job_.x, job_.shape.type, begin), tile, partial_.of(t, c));
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
    tiles_.parts(t, first, last, [&](int64_t begin, const NormTile& tile, int64_t c) {
      kernels_.scale(at(job_.x, job_.shape.type, begin), at(job_.y, job_.shape.type, begin), tile,
                     affine_at(coefficients_, c, job_.relu), past_cache_);
    });
  }

  const BatchNormForward& job_;
  NormTiles tiles_;
  const NormLayout& kernels_;
  Partial<ShiftedSums> partial_;
  Coefficients<T, 3> coefficients_;
  bool past_cache_;
};

template <class T>
class Backward {
 public:
  explicit Backward(const BatchNormBackward& job)
      : job_(job),
        tiles_(job.shape),
        kernels_(active_table().norm->layout[job.shape.lanes][job.shape.type]),
        partial_(tiles_, job.shape.channels),
        means_(job.shape.channels, tiles_.fold()),
        affine_(job.shape.channels, tiles_.fold()),
        slopes_(job.shape.channels, tiles_.fold()),
        count_(static_cast<double>(job.shape.pieces * job.shape.size)),
        past_cache_(past_cache(job.shape.bytes(), job.dx, {job.dy, job.x})) {
    for (int64_t c = 0; c < job.shape.channels; ++c) {
      means_.set(0, c, job.mean[c]);
      set_affine(&affine_, c, job.mean[c], job.weight[c] * job.invstd[c], job.bias[c]);
    }
  }

  void run() {
    tiles_.two_sweeps(
        2 * sizeof(T), [&](int64_t t, int64_t first, int64_t last) { reduce(t, first, last); },
        [&](int64_t first, int64_t last) {
          for (int64_t c = first; c < last; ++c) finish(c);
        },
        [&](int64_t t, int64_t first, int64_t last) { apply(t, first, last); });
  }

 private:
  void reduce(int64_t t, int64_t first, int64_t last) {
    const DType type = job_.shape.type;
    tiles_.parts(t, first, last, [&](int64_t begin, const NormTile& tile, int64_t c) {
      const NormScale y = affine_at(affine_, c, true);
      kernels_.gradient_sums(at(job_.dy, type, begin), at(job_.x, type, begin), tile,
                             means_.row(0, c), job_.relu ? &y : nullptr, partial_.of(t, c));
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
    const DType type = job_.shape.type;
    tiles_.parts(t, first, last, [&](int64_t begin, const NormTile& tile, int64_t c) {
      const NormScale y = affine_at(affine_, c, true);
      const NormSlopes slopes{slopes_.row(0, c), job_.training ? slopes_.row(1, c) : nullptr,
                              slopes_.row(2, c), slopes_.row(3, c), slopes_.row(4, c)};
      kernels_.gradient(at(job_.dy, type, begin), at(job_.x, type, begin), at(job_.dx, type, begin),
                        tile, slopes, job_.relu ? &y : nullptr, past_cache_);
    });
  }

  const BatchNormBackward& job_;
  NormTiles tiles_;
  const NormLayout& kernels_;
  Partial<GradientSums> partial_;
  Coefficients<double, 1> means_;
  Coefficients<T, 3> affine_;
  Coefficients<T, 5> slopes_;
  double count_;
  bool past_cache_;
};

}  // namespace

void batch_moments(const NormShape& shape, const void* x, Moments* channels) {
  const NormTiles tiles(shape);
  Partial<ShiftedSums> partial(tiles, shape.channels);
  const NormLayout& kernels = active_table().norm->layout[shape.lanes][shape.type];
  tiles.two_sweeps(
      bytes_of(shape.type),
      [&](int64_t t, int64_t first, int64_t last) {
        tiles.parts(t, first, last, [&](int64_t begin, const NormTile& tile, int64_t c) {
          kernels.moments(at(x, shape.type, begin), tile, partial.of(t, c));
        });
      },
      [&](int64_t first, int64_t last) {
        for (int64_t c = first; c < last; ++c) channels[c] = total(tiles, partial, c);
      },
      [](int64_t, int64_t, int64_t) {});
}

void forward(const BatchNormForward& job) {
  with_type(job.shape.type, [&]<class T>() { Forward<T>(job).run(); });
}

void backward(const BatchNormBackward& job) {
  with_type(job.shape.type, [&]<class T>() { Backward<T>(job).run(); });
}

}  // namespace gradstep
