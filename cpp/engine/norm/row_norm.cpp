#include "engine/norm/row_norm.hpp"

#include <vector>

#include "engine/cache_policy.hpp"
#include "engine/dispatch.hpp"
#include "engine/norm/rows.hpp"

namespace gradstep {

namespace {

// arrays: that the kernel reads and writes. Of 16 bits they reach it through buffers.
NormRows rows_of(const RowNorm& job, int64_t first, int64_t last, int arrays) {
  const int64_t bytes = is_half(job.type) ? 0 : job.rows * job.size * bytes_of(job.type) * arrays;
  double* mean = job.centred ? job.mean + first : nullptr;
  return {last - first, job.size, job.centred, job.eps, mean, job.invstd + first, bytes};
}

// Numbers in memory as T: their own, where that is their type.
template <class T>
class AsValues {
 public:
  AsValues(const Numbers& numbers, int64_t n) : data_(static_cast<const T*>(numbers.data)) {
    if (data_ && bytes_of(numbers.type) == sizeof(T)) return;
    made_.resize(n, static_cast<T>(numbers.missing));
    if constexpr (sizeof(T) == sizeof(float))
      if (data_) widen(numbers.type, data_, 0, n, made_.data());
    data_ = made_.data();
  }
  const T* data() const { return data_; }

 private:
  std::vector<T> made_;
  const T* data_;
};

template <class T>
void forward_rows(const RowNorm& job) {
  const AsValues<T> weight(job.weight, job.size), bias(job.bias, job.size);
  const auto kernel = active_table().norm->normalise_rows[value_type(job.type)];
  const bool past = past_cache(job.rows * job.size * bytes_of(job.type), job.y, {job.x});
  const bool directly = past && !is_half(job.type);
  const int64_t size = job.size;
  const Units<1> rows(job.type, size);
  strips(job.rows, size, [&](int64_t first, int64_t last) {
    rows.in_pieces(first * size, last * size, {job.x}, job.y, past,
                   [&](int64_t begin, int64_t end, const auto& x, void* y) {
                     kernel(x[0], y, rows_of(job, begin / size, end / size, 2), weight.data(),
                            bias.data(), directly);
                   });
  });
}

// Rows whose parts of the gradients of weight and bias are added up before those of other rows.
constexpr int64_t kGradientRows = 64;

template <class T>
void backward_rows(const RowNorm& job) {
  const AsValues<T> weight(job.weight, job.size);
  const auto kernel = active_table().norm->row_gradient[value_type(job.type)];
  const bool past = past_cache(job.rows * job.size * bytes_of(job.type), job.y, {job.dy, job.x});
  const bool directly = past && !is_half(job.type);
  const int64_t size = job.size, tiles = (job.rows + kGradientRows - 1) / kGradientRows;
  std::vector<T> partial(tiles * 2 * size);
  std::vector<double> total(2 * size);
  const Units<2> rows(job.type, size);
  const int64_t elements = job.rows * size;
  run_tasks(elements, tiles, [&](int64_t from, int64_t to) {
    for (int64_t t = from; t < to; ++t) {
      const int64_t first = t * kGradientRows, last = std::min(first + kGradientRows, job.rows);
      T* sums = partial.data() + t * 2 * size;
      rows.in_pieces(first * size, last * size, {job.dy, job.x}, job.y, past,
                     [&](int64_t begin, int64_t end, const auto& in, void* dx) {
                       kernel(in[0], in[1], dx, rows_of(job, begin / size, end / size, 3),
                              weight.data(), sums, sums + size, directly);
                     });
    }
  });
  run_tasks(tiles < 16 ? 0 : elements, size, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < tiles; ++t)
      for (int64_t part = 0; part < 2; ++part)
        for (int64_t j = begin; j < end; ++j)
          total[part * size + j] += partial[(2 * t + part) * size + j];
    job.dweight.set(begin, end - begin, total.data() + begin);
    if (job.dbias.data) job.dbias.set(begin, end - begin, total.data() + size + begin);
  });
}

}  // namespace

void forward(const RowNorm& job) {
  if (job.rows * job.size == 0) return empty_statistics(job.rows, job.eps, job.mean, job.invstd);
  with_type(value_type(job.type), [&]<class T>() { forward_rows<T>(job); });
}

void backward(const RowNorm& job) {
  if (job.size == 0) return;
  with_type(value_type(job.type), [&]<class T>() { backward_rows<T>(job); });
}

}  // namespace gradstep
