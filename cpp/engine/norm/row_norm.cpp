#include "engine/norm/row_norm.hpp"

#include <vector>

#include "engine/cache_policy.hpp"
#include "engine/dispatch.hpp"
#include "engine/norm/coefficients.hpp"
#include "engine/norm/rows.hpp"

namespace gradstep {

namespace {

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
  const NormKernels& kernels = *active_table().norm;
  const std::vector<T> ones(job.weight ? 0 : job.size, 1), zeros(job.bias ? 0 : job.size, 0);
  const void* weight = job.weight ? job.weight : ones.data();
  const void* bias = job.bias ? job.bias : zeros.data();
  const bool past = past_cache(job.rows * job.size * bytes_of(job.type), job.y, {job.x});
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
                                 coefficients.of(job, nullptr, first, last), weight, bias, past);
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
  const bool past = past_cache(job.rows * job.size * bytes_of(job.type), job.y, {job.dy, job.x});
  RowCoefficients<T> coefficients(job.rows);
  for (int64_t r = 0; r < job.rows; ++r) coefficients.set(r, mean[r], job.invstd[r]);
  const int64_t tiles = (job.rows + kGradientRows - 1) / kGradientRows;
  std::vector<double> partial(tiles * 2 * job.size);
  const int64_t elements = job.rows * job.size;
  run_tasks(elements, tiles, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t first = t * kGradientRows, last = std::min(first + kGradientRows, job.rows);
      const int64_t element = first * job.size;
      double* sums = partial.data() + t * 2 * job.size;
      active_table().norm->row_gradient[job.type](
          at(job.dy, job.type, element), at(job.x, job.type, element), at(job.y, job.type, element),
          coefficients.of(job, mean, first, last), weight, sums, sums + job.size, past);
    }
  });
  run_tasks(tiles < 16 ? 0 : elements, job.size, [&](int64_t begin, int64_t end) {
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

}  // namespace

void forward(const RowNorm& job) {
  if (job.rows * job.size == 0) return empty_statistics(job.rows, job.eps, job.mean, job.invstd);
  with_type(job.type, [&]<class T>() { forward_rows<T>(job); });
}

void backward(const RowNorm& job) {
  if (job.size == 0) return;
  with_type(job.type, [&]<class T>() { backward_rows<T>(job); });
}

}  // namespace gradstep
