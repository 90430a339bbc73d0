#include "engine/norm/row_norm.hpp"

#include <vector>

#include "engine/cache_policy.hpp"
#include "engine/dispatch.hpp"
#include "engine/norm/rows.hpp"

namespace gradstep {

namespace {

NormRows rows_of(const RowNorm& job, int64_t first, int64_t last) {
  return {
      last - first,      job.size, job.centred, job.eps, job.centred ? job.mean + first : nullptr,
      job.invstd + first};
}

template <class T>
void forward_rows(const RowNorm& job) {
  const std::vector<T> ones(job.weight ? 0 : job.size, 1), zeros(job.bias ? 0 : job.size, 0);
  const void* weight = job.weight ? job.weight : ones.data();
  const void* bias = job.bias ? job.bias : zeros.data();
  const bool past = past_cache(job.rows * job.size * bytes_of(job.type), job.y, {job.x});
  strips(job.rows, job.size, [&](int64_t first, int64_t last) {
    const int64_t element = first * job.size;
    active_table().norm->normalise_rows[job.type](at(job.x, job.type, element),
                                                  at(job.y, job.type, element),
                                                  rows_of(job, first, last), weight, bias, past);
  });
}

// Rows whose parts of the gradients of weight and bias are added up before those of other rows.
constexpr int64_t kGradientRows = 64;

template <class T>
void backward_rows(const RowNorm& job) {
  const std::vector<T> ones(job.weight ? 0 : job.size, 1);
  const void* weight = job.weight ? job.weight : ones.data();
  const bool past = past_cache(job.rows * job.size * bytes_of(job.type), job.y, {job.dy, job.x});
  const int64_t tiles = (job.rows + kGradientRows - 1) / kGradientRows;
  std::vector<T> partial(tiles * 2 * job.size);
  std::vector<double> total(2 * job.size);
  const int64_t elements = job.rows * job.size;
  run_tasks(elements, tiles, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t first = t * kGradientRows, last = std::min(first + kGradientRows, job.rows);
      const int64_t element = first * job.size;
      T* sums = partial.data() + t * 2 * job.size;
      active_table().norm->row_gradient[job.type](
          at(job.dy, job.type, element), at(job.x, job.type, element), at(job.y, job.type, element),
          rows_of(job, first, last), weight, sums, sums + job.size, past);
    }
  });
  run_tasks(tiles < 16 ? 0 : elements, job.size, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < tiles; ++t)
      for (int64_t part = 0; part < 2; ++part)
        for (int64_t j = begin; j < end; ++j)
          total[part * job.size + j] += partial[(2 * t + part) * job.size + j];
    for (int64_t j = begin; j < end; ++j) {
      job.dweight.set(j, total[j]);
      if (job.dbias.data) job.dbias.set(j, total[job.size + j]);
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
