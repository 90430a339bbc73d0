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
        type_(value_type(job.type)),
        kernels_(active_table().norm->layout[kSpatialLanes][type_]),
        width_(job.channels / job.groups),
        inner_(width_ * job.size),
        past_cache_(past_cache(job.samples * job.channels * job.size * bytes_of(job.type), job.y,
                               {job.x, job.dy})),
        directly_(past_cache_ && !is_half(job.type)) {}

  void forward() {
    const Units<1> groups(job_.type, inner_);
    strips(job_.samples * job_.groups, inner_, [&](int64_t first, int64_t last) {
      groups.in_pieces(first * inner_, last * inner_, {job_.x}, job_.y, past_cache_,
                       [&](int64_t begin, int64_t end, const auto& x, void* y) {
                         forward(begin / inner_, end / inner_, x[0], y);
                       });
    });
  }

  void forward(int64_t first, int64_t last, const void* x, void* y) {
    row_moments(kernels_.moments, type_, x, inner_, first, last, [&](int64_t g, const Moments& m) {
      job_.mean[g] = m.mean;
      job_.invstd[g] = inverse_deviation(m.variance(), job_.eps);
    });
    channels(first * width_, last * width_, [&](int64_t begin, const NormTile& tile) {
      FewCoefficients<T, 3, kChannels> affine;
      for (int64_t i = 0; i < tile.channels; ++i) {
        const int64_t g = (begin + i) / width_, c = (begin + i) % job_.channels;
        const double mean = job_.mean[g], scale = job_.weight[c] * job_.invstd[g];
        affine.set(0, i, mean);
        affine.set(1, i, scale);
        affine.set(2, i, affine_offset<T>(mean, scale, job_.bias[c]));
      }
      const int64_t element = (begin - first * width_) * job_.size;
      kernels_.scale(at(x, type_, element), at(y, type_, element), tile,
                     affine_at(affine, 0, false), directly_);
    });
  }

  // Wu & He 2018 (arXiv:1803.08494): as in a layer norm, with the weights of the channels.
  void backward() {
    std::vector<GradientSums> sums(job_.samples * job_.channels);
    const Units<2> groups(job_.type, inner_);
    strips(job_.samples * job_.groups, inner_, [&](int64_t first, int64_t last) {
      groups.in_pieces(first * inner_, last * inner_, {job_.dy, job_.x}, job_.y, past_cache_,
                       [&](int64_t begin, int64_t end, const auto& in, void* dx) {
                         backward(begin / inner_, end / inner_, in[0], in[1], dx, sums.data());
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

  void backward(int64_t first, int64_t last, const void* dy, const void* x, void* dx,
                GradientSums* sums) {
    for (int64_t g = first; g < last; ++g) {
      const int64_t element = (g - first) * inner_;
      channel_sums(g, at(dy, type_, element), at(x, type_, element), sums + g * width_);
    }
    // The groups of a strip, one after the other: their channels lie side by side.
    Part part{};
    int64_t known = -1;
    channels(first * width_, last * width_, [&](int64_t begin, const NormTile& tile) {
      FewCoefficients<T, 5, kChannels> slopes;
      for (int64_t i = 0; i < tile.channels; ++i) {
        const int64_t g = (begin + i) / width_;
        if (g != known) part = part_of(known = g, sums + g * width_);
        set_slopes(part, (begin + i) % job_.channels, i, &slopes);
      }
      const int64_t element = (begin - first * width_) * job_.size;
      kernels_.gradient(at(dy, type_, element), at(x, type_, element), at(dx, type_, element), tile,
                        {slopes.row(0, 0), slopes.row(1, 0), slopes.row(2, 0), slopes.row(3, 0),
                         slopes.row(4, 0)},
                        nullptr, directly_);
    });
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

  // Of group g, which is at dy and x.
  void channel_sums(int64_t g, const void* dy, const void* x, GradientSums* sums) const {
    double means[kChannels];
    std::fill_n(means, kChannels, job_.mean[g]);
    channels(g * width_, (g + 1) * width_, [&](int64_t begin, const NormTile& tile) {
      const int64_t channel = begin - g * width_;
      const auto add_sums = [&](int64_t element, const NormTile& part, GradientSums* to) {
        kernels_.gradient_sums(at(dy, type_, element), at(x, type_, element), part, means, nullptr,
                               to);
      };
      GradientSums* found = sums + channel;
      if (job_.size <= kNormTile) return add_sums(channel * job_.size, tile, found);
      for (int64_t c = 0; c < tile.channels; ++c) {
        found[c] = {0, 0};
        row_tiles(job_.size, [&](int64_t from, const NormTile& piece) {
          GradientSums more;
          add_sums((channel + c) * job_.size + from, piece, &more);
          found[c] = {found[c].dy + more.dy, found[c].dy_x + more.dy_x};
        });
      }
    });
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
  DType type_;  // of the formulas
  const NormLayout& kernels_;
  int64_t width_, inner_;
  bool past_cache_, directly_;  // the latter: from the kernels
};

}  // namespace

void forward(const GroupNorm& job) {
  if (job.samples * job.channels * job.size == 0)
    return empty_statistics(job.samples * job.groups, job.eps, job.mean, job.invstd);
  with_type(value_type(job.type), [&]<class T>() { Groups<T>(job).forward(); });
}

void backward(const GroupNorm& job) {
  if (job.samples * job.channels * job.size != 0)
    return with_type(value_type(job.type), [&]<class T>() { Groups<T>(job).backward(); });
  for (int64_t c = 0; c < job.channels; ++c) job.dweight.set(c, 0), job.dbias.set(c, 0);
}

}  // namespace gradstep
