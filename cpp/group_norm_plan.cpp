// Layer, RMS, group and instance norm: every row or group has statistics of its own, so threads
// share the rows and nothing else.
#include <algorithm>

#include "norm_coefficients.hpp"
#include "norm_tiles.hpp"

namespace gradstep {

namespace {

// Rows of `size` elements done together, so that they stay in L2 and their number is worth a call.
int64_t rows_at_once(int64_t size) { return std::clamp<int64_t>(kNormSerial / size, 1, 64); }

// f(first, last) for strips of the rows, shared among the threads.
template <class F>
void strips(int64_t rows, int64_t size, const F& f) {
  const int64_t strip = rows_at_once(size);
  run_tasks(rows * size <= kNormSerial, (rows + strip - 1) / strip,
            [&](int64_t first, int64_t last) {
              for (int64_t s = first; s < last; ++s) f(s * strip, std::min((s + 1) * strip, rows));
            });
}

// f(first element, tile) for the tiles of a row, in order.
template <class F>
void row_tiles(int64_t size, const F& f) {
  for (int64_t begin = 0; begin < size; begin += kNormTile)
    f(begin, NormTile{1, 0, 1, std::min(kNormTile, size - begin)});
}

typedef void (*SumsKernel)(const void*, const NormTile&, ShiftedSums*);

// take(row, moments of it) for rows [first, last); the kernel's sums are those of a tile.
template <class Take>
void row_moments(SumsKernel kernel, DType type, const void* x, int64_t size, int64_t first,
                 int64_t last, const Take& take) {
  if (size <= kNormTile) {
    ShiftedSums sums[64];
    kernel(at(x, type, first * size), {1, 0, last - first, size}, sums);
    for (int64_t r = first; r < last; ++r) take(r, moments_of(sums[r - first], size));
    return;
  }
  for (int64_t r = first; r < last; ++r) {
    Moments all;
    row_tiles(size, [&](int64_t begin, const NormTile& tile) {
      ShiftedSums sums;
      kernel(at(x, type, r * size + begin), tile, &sums);
      all = merged(all, moments_of(sums, tile.size));
    });
    take(r, all);
  }
}

// The mean square of rows [first, last), from sums with shift 0.
template <class Take>
void row_squares(SumsKernel kernel, DType type, const void* x, int64_t size, int64_t first,
                 int64_t last, const Take& take) {
  for (int64_t r = first; r < last; ++r) {
    double squares = 0;
    row_tiles(size, [&](int64_t begin, const NormTile& tile) {
      ShiftedSums sums;
      kernel(at(x, type, r * size + begin), tile, &sums);
      squares += sums.squares;
    });
    take(r, squares / static_cast<double>(size));
  }
}

// shift, invstd and rest of every row, in T.
template <class T>
class RowCoefficients {
 public:
  explicit RowCoefficients(int64_t rows) : rows_(rows, 1) {}
  void set(int64_t r, double mean, double invstd) {
    const double shift = static_cast<T>(mean);
    rows_.set(0, r, shift);
    rows_.set(1, r, invstd);
    rows_.set(2, r, (shift - mean) * invstd);
  }
  NormRows of(const RowNorm& job, const double* mean, int64_t first, int64_t last) const {
    return {last - first,        job.size,
            rows_.row(0, first), rows_.row(1, first),
            rows_.row(2, first), mean ? mean + first : nullptr,
            job.invstd + first,  job.centred};
  }

 private:
  Coefficients<T, 3> rows_;
};

template <class T>
void forward_rows(const RowNorm& job) {
  const NormKernels& kernels = norm_kernels();
  const std::vector<T> ones(job.weight ? 0 : job.size, 1), zeros(job.bias ? 0 : job.size, 0);
  const void* weight = job.weight ? job.weight : ones.data();
  const void* bias = job.bias ? job.bias : zeros.data();
  const bool stream = streams(job.type, job.rows * job.size, job.y, job.x, job.x);
  RowCoefficients<T> coefficients(job.rows);
  const auto set = [&](int64_t r, double mean, double variance) {
    if (job.centred) job.mean[r] = mean;
    job.invstd[r] = inverse_deviation(variance, job.eps);
    coefficients.set(r, mean, job.invstd[r]);
  };
  strips(job.rows, job.size, [&](int64_t first, int64_t last) {
    if (job.centred)
      row_moments(kernels.layout[kSpatialLanes][job.type].moments, job.type, job.x, job.size, first,
                  last, [&](int64_t r, const Moments& m) { set(r, m.mean, m.variance()); });
    else
      row_squares(kernels.squares[job.type], job.type, job.x, job.size, first, last,
                  [&](int64_t r, double square) { set(r, 0, square); });
    kernels.scale_rows[job.type](at(job.x, job.type, first * job.size),
                                 at(job.y, job.type, first * job.size),
                                 coefficients.of(job, nullptr, first, last), weight, bias, stream);
  });
}

// Rows whose parts of the gradients of weight and bias are added up before those of other rows.
constexpr int64_t kGradientRows = 64;

template <class T>
void backward_rows(const RowNorm& job) {
  const std::vector<T> ones(job.weight ? 0 : job.size, 1);
  const std::vector<double> zeros(job.centred ? 0 : job.rows, 0);
  const void* weight = job.weight ? job.weight : ones.data();
  const double* mean = job.centred ? job.mean : zeros.data();
  const bool stream = streams(job.type, job.rows * job.size, job.y, job.dy, job.x);
  RowCoefficients<T> coefficients(job.rows);
  for (int64_t r = 0; r < job.rows; ++r) coefficients.set(r, mean[r], job.invstd[r]);
  const int64_t tiles = (job.rows + kGradientRows - 1) / kGradientRows;
  std::vector<double> partial(tiles * 2 * job.size);
  const bool serial = job.rows * job.size <= kNormSerial;
  run_tasks(serial, tiles, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t first = t * kGradientRows, last = std::min(first + kGradientRows, job.rows);
      const int64_t element = first * job.size;
      double* sums = partial.data() + t * 2 * job.size;
      norm_kernels().row_gradient[job.type](
          at(job.dy, job.type, element), at(job.x, job.type, element), at(job.y, job.type, element),
          coefficients.of(job, mean, first, last), weight, sums, sums + job.size, stream);
    }
  });
  run_tasks(serial || tiles < 16, job.size, [&](int64_t begin, int64_t end) {
    for (int64_t t = 1; t < tiles; ++t)
      for (int64_t part = 0; part < 2; ++part)
        for (int64_t j = begin; j < end; ++j)
          partial[part * job.size + j] += partial[(2 * t + part) * job.size + j];
    for (int64_t j = begin; j < end; ++j) {
      job.dweight.set(j, tiles ? partial[j] : 0);
      if (job.dbias.data) job.dbias.set(j, tiles ? partial[job.size + j] : 0);
    }
  });
}

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

// Those of rows without elements.
void empty_statistics(int64_t rows, double eps, double* mean, double* invstd) {
  std::fill_n(mean, rows, 0.0);
  std::fill_n(invstd, rows, inverse_deviation(0, eps));
}

}  // namespace

void forward(const RowNorm& job) {
  if (job.rows * job.size == 0) return empty_statistics(job.rows, job.eps, job.mean, job.invstd);
  if (job.type == kFloat32)
    forward_rows<float>(job);
  else
    forward_rows<double>(job);
}

void backward(const RowNorm& job) {
  if (job.size == 0) return;
  if (job.type == kFloat32)
    backward_rows<float>(job);
  else
    backward_rows<double>(job);
}

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
