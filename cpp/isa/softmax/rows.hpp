// Softmax, its logarithm, cross-entropy and their gradients over rows. A row is summed in the order
// of reduce.hpp, whichever of the three ways it is walked: along memory; as one of the columns of a
// vector where rows lie side by side (inner > 1); or, when short, turned into such a column.
#pragma once
#include "isa/math.hpp"
#include "isa/reduce.hpp"
#include "isa/softmax/table.hpp"

namespace gradstep::GRADSTEP_ISA::softmax {

// Rows up to this length are turned, a group at a time.
inline constexpr int64_t kShortRow = 64, kGroup = 16;

template <class V>
ALWAYS_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}
#if defined(__AVX512F__)
ALWAYS_INLINE f32 larger(f32 a, f32 b) { return (f32)_mm512_max_ps((__m512)a, (__m512)b); }
ALWAYS_INLINE f64 larger(f64 a, f64 b) { return (f64)_mm512_max_pd((__m512d)a, (__m512d)b); }
#endif

// The largest element that is not NaN; -inf if there is none.
template <class T>
ALWAYS_INLINE T largest(const T* x, int64_t n) {
  typedef typename Native<T>::type V;
  constexpr int64_t kWidth = kLanes<V, T>, kChains = 4;
  const T least = -__builtin_inf();
  V chain[kChains];
  for (V& v : chain) v = splat<V>(least);
  int64_t i = 0;
  for (; i + kChains * kWidth <= n; i += kChains * kWidth)
    for (int c = 0; c < kChains; ++c) chain[c] = larger(load<V>(x + i + c * kWidth), chain[c]);
  for (; i + kWidth <= n; i += kWidth) chain[0] = larger(load<V>(x + i), chain[0]);
  if (i < n) chain[1] = larger(load_first<V>(x + i, n - i, least), chain[1]);
  const auto of_two = [](V a, V b) __attribute__((always_inline)) { return larger(b, a); };
  return fold_lanes<T>(of_two(of_two(chain[0], chain[1]), of_two(chain[2], chain[3])), of_two);
}

// Sixteen values in double, straight from registers where the ISA allows: through memory they would
// wait for the store.
ALWAYS_INLINE Row widened_row(const f64* e) {
  Row row;
  for (int i = 0; i < Row::kVectors; ++i) row.v[i] = e[i];
  return row;
}
ALWAYS_INLINE Row widened_row(const f32* e) {
  Row row;
  for (int i = 0; i < Row::kVectors / 2; ++i) {
#if defined(__AVX512F__)
    row.v[2 * i] = (f64)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)e[i]));
    row.v[2 * i + 1] = (f64)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)e[i], 1));
#elif defined(__AVX2__)
    row.v[2 * i] = (f64)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)e[i]));
    row.v[2 * i + 1] = (f64)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)e[i], 1));
#elif defined(__SSE2__)
    row.v[2 * i] = (f64)_mm_cvtps_pd((__m128)e[i]);
    row.v[2 * i + 1] = (f64)_mm_cvtps_pd(_mm_movehl_ps((__m128)e[i], (__m128)e[i]));
#else
    float x[kBytes / 4];
    store(x, e[i]);
    row.v[2 * i] = load_f64(x);
    row.v[2 * i + 1] = load_f64(x + Row::kWidth);
#endif
  }
  return row;
}

template <class T>
static double softmax_max(const SoftmaxJob& job, int64_t row, int64_t begin, int64_t end) {
  return largest(static_cast<const T*>(job.x) + row * job.n + begin, end - begin);
}

template <class T>
static void softmax_sums(const SoftmaxJob& job, int64_t row, int64_t begin, int64_t end, double max,
                         double* sums, double* smooth) {
  typedef typename Native<T>::type V;
  const int64_t at = row * job.n + begin, n = end - begin;
  const T* x = static_cast<const T*>(job.x) + at;
  T* y = static_cast<T*>(job.y) + at;
  const T inf = __builtin_inf(), most = max;
  if (job.kind == kSoftmaxBackward || job.kind == kLogSoftmaxBackward) {
    const T* dy = static_cast<const T*>(job.dy) + at;
    if (job.kind == kLogSoftmaxBackward)
      return sum_row<false, T>(n, dy, dy, y, 0, sums,
                               [](const T* a, const T*, T*)
                                   __attribute__((always_inline)) { return Row::of(a); });
    return sum_row<false, T>(n, dy, x, y, 0, sums,
                             [](const T* a, const T* b, T*) __attribute__((always_inline)) {
                               Row row = Row::of(a);
                               const Row other = Row::of(b);
                               for (int i = 0; i < Row::kVectors; ++i)
                                 row.v[i] = row.v[i] * other.v[i];
                               return row;
                             });
  }
  if (job.smoothing != 0)
    sum_row<false, T>(n, x, static_cast<const T*>(job.weights) + begin, y, 0, smooth,
                      [&](const T* a, const T* b, T*) __attribute__((always_inline)) {
                        Row row = Row::of(a);
                        const Row other = Row::of(b);
                        for (int i = 0; i < Row::kVectors; ++i)
                          row.v[i] = (row.v[i] - max) * other.v[i];
                        return row;
                      });
  const auto exponentials = [&](const T* a, T* out) __attribute__((always_inline)) {
    constexpr int64_t kWidth = kLanes<V, T>;
    V e[kSumLanes / kWidth];
    for (int64_t i = 0; i < kSumLanes / kWidth; ++i) {
      e[i] = exp_parts(load<V>(a + i * kWidth) - most).value();
      if (out != nullptr) store(out + i * kWidth, e[i]);
    }
    return widened_row(e);
  };
  if (job.kind == kLogSoftmax)
    return sum_row<false, T>(n, x, x, y, -inf, sums,
                             [&](const T* a, const T*, T*) __attribute__((always_inline)) {
                               return exponentials(a, nullptr);
                             });
  sum_row<true, T>(n, x, x, y, -inf, sums,
                   [&](const T* a, const T*, T* out)
                       __attribute__((always_inline)) { return exponentials(a, out); });
}

// Loss and the factors of the gradient for a row, from its stats.
struct LossRow {
  bool ignored;
  double factor, target_part, loss;

  ALWAYS_INLINE LossRow(const SoftmaxJob& job, int64_t target, double weight, const RowStats& stats,
                        double log_sum) {
    ignored = target == job.ignored;
    const double share = job.smoothing / static_cast<double>(job.n);
    target_part = job.scale * ((1 - job.smoothing) * weight);
    factor = (target_part + job.scale * (share * job.weight_sum)) / stats.sum;
    loss = (1 - job.smoothing) * weight * ((stats.max - stats.target_logit) + log_sum);
    if (job.smoothing != 0) loss += share * (job.weight_sum * log_sum - stats.smooth);
    if (ignored) loss = 0;
  }
};

template <class T>
ALWAYS_INLINE double class_weight(const SoftmaxJob& job, int64_t target) {
  if (job.weights == nullptr || target == job.ignored) return 1;
  return static_cast<double>(static_cast<const T*>(job.weights)[target]);
}

template <class T>
static void softmax_finish(const SoftmaxJob& job, int64_t row, int64_t begin, int64_t end,
                           const RowStats& stats) {
  const int64_t at = row * job.n + begin, n = end - begin;
  const T* x = static_cast<const T*>(job.x) + at;
  const T* dy = static_cast<const T*>(job.dy) + at;
  T* y = static_cast<T*>(job.y) + at;
  const auto map = [&](const auto& f) __attribute__((always_inline)) {
    sweep<T>(
        n, [&](auto type, int64_t i) __attribute__((always_inline)) { store(y + i, f(type, i)); });
  };
#define VALUE typename decltype(type)::type
  if (job.kind == kSoftmax) {
    const T factor = 1 / stats.sum;
    return map([&](auto type, int64_t i)
                   __attribute__((always_inline)) { return load<VALUE>(y + i) * factor; });
  }
  if (job.kind == kLogSoftmax) {
    const T max = stats.max, log_sum = log(stats.sum);
    return map([&](auto type, int64_t i)
                   __attribute__((always_inline)) { return load<VALUE>(x + i) - max - log_sum; });
  }
  const T sum = stats.sum;
  if (job.kind == kSoftmaxBackward)
    return map([&](auto type, int64_t i) __attribute__((always_inline)) {
      return load<VALUE>(x + i) * (load<VALUE>(dy + i) - sum);
    });
  if (job.kind == kLogSoftmaxBackward)
    return map([&](auto type, int64_t i) __attribute__((always_inline)) {
      return load<VALUE>(dy + i) - exp(load<VALUE>(x + i)) * sum;
    });
  const int64_t target = job.targets[row];
  const LossRow loss(job, target, class_weight<T>(job, target), stats, log(stats.sum));
  const T factor = loss.factor;
  if (begin == 0) job.losses[row] = loss.loss;
  if (loss.ignored)
    return map([&](auto type, int64_t) __attribute__((always_inline)) { return VALUE{}; });
  const T* smooth = static_cast<const T*>(job.smooth);
  if (smooth == nullptr)
    map([&](auto type, int64_t i)
            __attribute__((always_inline)) { return load<VALUE>(y + i) * factor; });
  else
    map([&](auto type, int64_t i) __attribute__((always_inline)) {
      return load<VALUE>(y + i) * factor - load<VALUE>(smooth + begin + i);
    });
#undef VALUE
  if (target >= begin && target < end) y[target - begin] -= T(loss.target_part);
}

template <class T>
ALWAYS_INLINE double logit_of_target(const SoftmaxJob& job, int64_t row) {
  if (job.kind != kCrossEntropy) return 0;
  const int64_t target = job.targets[row];
  if (target == job.ignored) return 0;
  return static_cast<double>(static_cast<const T*>(
      job.x)[(row / job.inner * job.n + target) * job.inner + row % job.inner]);
}

template <class T>
static void softmax_row(const SoftmaxJob& job, int64_t row) {
  RowStats stats{0, 0, 0, logit_of_target<T>(job, row)};
  if (job.kind <= kCrossEntropy) stats.max = softmax_max<T>(job, row, 0, job.n);
  for (int64_t at = 0; at < job.n; at += kSumBlock) {
    double sum, smooth = 0;
    const int64_t end = job.n - at < kSumBlock ? job.n : at + kSumBlock;
    softmax_sums<T>(job, row, at, end, stats.max, &sum, &smooth);
    stats.sum += sum;
    stats.smooth += smooth;
  }
  softmax_finish<T>(job, row, 0, job.n, stats);
}

}  // namespace gradstep::GRADSTEP_ISA::softmax
