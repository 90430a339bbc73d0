#include "engine/norm/group_norm.hpp"

#include <vector>

#include "engine/norm/coefficients.hpp"
#include "engine/norm/rows.hpp"

namespace gradstep {

namespace {

template <class T>
class Groups {
 public:
  explicit Groups(const GroupNorm& job)
      : job_(job),
        kernels_(norm_kernels().layout[kSpatialLanes][job.type]),
        width_(job.channels / job.groups),
        inner_(width_ * job.size),
        stream_(streams(job.type, job.samples * job.channels * job.size, job.y, job.x,
                        job.dy ? job.dy : job.x)) {}

  void forward() {
    strips(job_.samples * job_.groups, inner_, [&](int64_t first, int64_t last) {
      row_moments(kernels_.moments, job_.type, job_.x, inner_, first, last,
                  [&](int64_t g, const Moments& m) {
                    job_.mean[g] = m.mean;
                    job_.invstd[g] = inverse_deviation(m.variance(), job_.eps);
                  });
      Coefficients<T, 3> affine((last - first) * width_, 1);
      for (int64_t i = 0; i < (last - first) * width_; ++i) {
        const int64_t channel = first * width_ + i, g = channel / width_,
                      c = channel % job_.channels;
        set_affine(&affine, i, job_.mean[g], job_.weight[c] * job_.invstd[g], job_.bias[c]);
      }
      const int64_t begin = first * inner_;
      kernels_.scale(at(job_.x, job_.type, begin), at(job_.y, job_.type, begin),
                     {1, 0, (last - first) * width_, job_.size}, affine_at(affine, 0, false),
                     stream_);
    });
  }

  // Wu & He 2018 (arXiv:1803.08494): as in a layer norm, with the weights of the channels.
  void backward() {
    std::vector<GradientSums> sums(job_.samples * job_.channels);
    strips(job_.samples * job_.groups, inner_, [&](int64_t first, int64_t last) {
      Coefficients<T, 5> slopes((last - first) * width_, 1);
      for (int64_t g = first; g < last; ++g) {
        channel_sums(g, sums.data() + g * width_);
        set_slopes(g, sums.data() + g * width_, (g - first) * width_, &slopes);
      }
      const int64_t begin = first * inner_;
      kernels_.gradient(at(job_.dy, job_.type, begin), at(job_.x, job_.type, begin),
                        at(job_.y, job_.type, begin), {1, 0, (last - first) * width_, job_.size},
                        {slopes.row(0, 0), slopes.row(1, 0), slopes.row(2, 0), slopes.row(3, 0),
                         slopes.row(4, 0)},
                        nullptr, stream_);
    });
    for (int64_t c = 0; c < job_.channels; ++c) {
      double dweight = 0, dbias = 0;
      for (int64_t n = 0; n < job_.samples; ++n) {
        const GradientSums& part = sums[n * job_.channels + c];
        dweight += part.dy_x * job_.invstd[n * job_.groups + c / width_];
        dbias += part.dy;
      }
      job_.dweight.set(c, dweight);
      job_.dbias.set(c, dbias);
    }
  }

 private:
  void channel_sums(int64_t g, GradientSums* channels) {
    const std::vector<double> means(width_, job_.mean[g]);
    const int64_t begin = g * inner_;
    if (job_.size <= kNormTile) {
      kernels_.gradient_sums(at(job_.dy, job_.type, begin), at(job_.x, job_.type, begin),
                             {1, 0, width_, job_.size}, means.data(), nullptr, channels);
      return;
    }
    for (int64_t c = 0; c < width_; ++c) {
      channels[c] = {0, 0};
      row_tiles(job_.size, [&](int64_t from, const NormTile& tile) {
        GradientSums sums;
        const int64_t element = begin + c * job_.size + from;
        kernels_.gradient_sums(at(job_.dy, job_.type, element), at(job_.x, job_.type, element),
                               tile, means.data(), nullptr, &sums);
        channels[c] = {channels[c].dy + sums.dy, channels[c].dy_x + sums.dy_x};
      });
    }
  }

  void set_slopes(int64_t g, const GradientSums* channels, int64_t row,
                  Coefficients<T, 5>* slopes) {
    const double mean = job_.mean[g], invstd = job_.invstd[g], shift = static_cast<T>(mean);
    const double count = static_cast<double>(inner_);
    const int64_t first = g * width_ % job_.channels;
    double dy = 0, dy_x = 0;
    for (int64_t c = 0; c < width_; ++c) {
      dy += job_.weight[first + c] * channels[c].dy;
      dy_x += job_.weight[first + c] * channels[c].dy_x;
    }
    const double by_x = -(invstd * (dy_x * invstd)) / count;
    const double rest = by_x * ((shift - mean) * invstd) - invstd * (dy / count);
    for (int64_t c = 0; c < width_; ++c) {
      slopes->set(0, row + c, job_.weight[first + c] * invstd);
      slopes->set(1, row + c, by_x);
      slopes->set(2, row + c, rest);
      slopes->set(3, row + c, shift);
      slopes->set(4, row + c, invstd);
    }
  }

  const GroupNorm& job_;
  const NormLayout& kernels_;
  int64_t width_, inner_;
  bool stream_;
};

}  // namespace

void forward(const GroupNorm& job) {
  if (job.samples * job.channels * job.size == 0)
    return empty_statistics(job.samples * job.groups, job.eps, job.mean, job.invstd);
  if (job.type == kFloat32)
    Groups<float>(job).forward();
  else
    Groups<double>(job).forward();
}

void backward(const GroupNorm& job) {
  for (int64_t c = 0; c < job.channels; ++c) job.dweight.set(c, 0), job.dbias.set(c, 0);
  if (job.samples * job.channels * job.size == 0) return;
  if (job.type == kFloat32)
    Groups<float>(job).backward();
  else
    Groups<double>(job).backward();
}

}  // namespace gradstep
