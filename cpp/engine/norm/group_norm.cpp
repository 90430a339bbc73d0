#include "engine/norm/group_norm.hpp"

#include <vector>

#include "engine/cache_policy.hpp"
#include "engine/dispatch.hpp"
#include "engine/norm/coefficients.hpp"
#include "engine/norm/rows.hpp"

namespace gradstep {

namespace {

// Channels whose coefficients are at hand together, on the stack: nothing may be allocated in a
// task.
constexpr int64_t kChannels = 128;

template <class T>
class Groups {
 public:
  explicit Groups(const GroupNorm& job)
      : job_(job),
        kernels_(active_table().norm->layout[kSpatialLanes][job.type]),
        width_(job.channels / job.groups),
        inner_(width_ * job.size),
        past_cache_(past_cache(job.samples * job.channels * job.size * bytes_of(job.type), job.y,
                               {job.x, job.dy})) {}

  void forward() {
    strips(job_.samples * job_.groups, inner_, [&](int64_t first, int64_t last) {
      row_moments(kernels_.moments, job_.type, job_.x, inner_, first, last,
                  [&](int64_t g, const Moments& m) {
                    job_.mean[g] = m.mean;
                    job_.invstd[g] = inverse_deviation(m.variance(), job_.eps);
                  });
      channels(first * width_, last * width_, [&](int64_t begin, const NormTile& tile) {
        FewCoefficients<T, 3, kChannels> affine;
        for (int64_t i = 0; i < tile.channels; ++i) {
          const int64_t g = (begin + i) / width_, c = (begin + i) % job_.channels;
          set_affine(&affine, i, job_.mean[g], job_.weight[c] * job_.invstd[g], job_.bias[c]);
        }
        const int64_t element = begin * job_.size;
        kernels_.scale(at(job_.x, job_.type, element), at(job_.y, job_.type, element), tile,
                       affine_at(affine, 0, false), past_cache_);
      });
    });
  }

  // Wu & He 2018 (arXiv:1803.08494): as in a layer norm, with the weights of the channels.
  void backward() {
    std::vector<GradientSums> sums(job_.samples * job_.channels);
    strips(job_.samples * job_.groups, inner_, [&](int64_t first, int64_t last) {
      for (int64_t g = first; g < last; ++g) channel_sums(g, sums.data() + g * width_);
      // The groups of a strip, one after the other: their channels lie side by side.
      Part part{};
      int64_t known = -1;
      channels(first * width_, last * width_, [&](int64_t begin, const NormTile& tile) {
        FewCoefficients<T, 5, kChannels> slopes;
        for (int64_t i = 0; i < tile.channels; ++i) {
          const int64_t g = (begin + i) / width_;
          if (g != known) part = part_of(known = g, sums.data() + g * width_);
          set_slopes(part, (begin + i) % job_.channels, i, &slopes);
        }
        const int64_t element = begin * job_.size;
        kernels_.gradient(at(job_.dy, job_.type, element), at(job_.x, job_.type, element),
                          at(job_.y, job_.type, element), tile,
                          {slopes.row(0, 0), slopes.row(1, 0), slopes.row(2, 0), slopes.row(3, 0),
                           slopes.row(4, 0)},
                          nullptr, past_cache_);
      });
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
  // What all channels of a group have in common.
  struct Part {
    double invstd, by_x, rest, shift;
  };

  // f(first channel, tile) for the channels [begin, end) of all samples, a few at a time.
  template <class F>
  void channels(int64_t begin, int64_t end, const F& f) const {
    for (; begin < end; begin += kChannels)
      f(begin, NormTile{1, 0, std::min(kChannels, end - begin), job_.size});
  }

  void channel_sums(int64_t g, GradientSums* sums) const {
    double means[kChannels];
    std::fill_n(means, kChannels, job_.mean[g]);
    channels(g * width_, (g + 1) * width_, [&](int64_t begin, const NormTile& tile) {
      GradientSums* found = sums + (begin - g * width_);
      if (job_.size <= kNormTile) return add_sums(begin * job_.size, tile, means, found);
      for (int64_t c = 0; c < tile.channels; ++c) {
        found[c] = {0, 0};
        row_tiles(job_.size, [&](int64_t from, const NormTile& piece) {
          GradientSums more;
          add_sums((begin + c) * job_.size + from, piece, means, &more);
          found[c] = {found[c].dy + more.dy, found[c].dy_x + more.dy_x};
        });
      }
    });
  }

  void add_sums(int64_t element, const NormTile& tile, const double* means,
                GradientSums* sums) const {
    kernels_.gradient_sums(at(job_.dy, job_.type, element), at(job_.x, job_.type, element), tile,
                           means, nullptr, sums);
  }

  Part part_of(int64_t g, const GradientSums* sums) const {
    const double mean = job_.mean[g], invstd = job_.invstd[g], shift = static_cast<T>(mean);
    const double count = static_cast<double>(inner_);
    const int64_t first = g * width_ % job_.channels;
    double dy = 0, dy_x = 0;
    for (int64_t c = 0; c < width_; ++c) {
      dy += job_.weight[first + c] * sums[c].dy;
      dy_x += job_.weight[first + c] * sums[c].dy_x;
    }
    const double by_x = -(invstd * (dy_x * invstd)) / count;
    return {invstd, by_x, by_x * ((shift - mean) * invstd) - invstd * (dy / count), shift};
  }

  template <class Slopes>
  void set_slopes(const Part& part, int64_t channel, int64_t i, Slopes* slopes) const {
    slopes->set(0, i, job_.weight[channel] * part.invstd);
    slopes->set(1, i, part.by_x);
    slopes->set(2, i, part.rest);
    slopes->set(3, i, part.shift);
    slopes->set(4, i, part.invstd);
  }

  const GroupNorm& job_;
  const NormLayout& kernels_;
  int64_t width_, inner_;
  bool past_cache_;
};

}  // namespace

void forward(const GroupNorm& job) {
  if (job.samples * job.channels * job.size == 0)
    return empty_statistics(job.samples * job.groups, job.eps, job.mean, job.invstd);
  with_type(job.type, [&]<class T>() { Groups<T>(job).forward(); });
}

void backward(const GroupNorm& job) {
  if (job.samples * job.channels * job.size != 0)
    return with_type(job.type, [&]<class T>() { Groups<T>(job).backward(); });
  for (int64_t c = 0; c < job.channels; ++c) job.dweight.set(c, 0), job.dbias.set(c, 0);
}

}  // namespace gradstep
