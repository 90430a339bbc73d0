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
// Longer ones are walked as many at a time as have this many elements, which stay in L1; backward
// reads twice as much. No more of them than kTogether.
inline constexpr int64_t kElements = kSumBlock, kElementsBackward = 1024, kTogether = 16;

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

template <class T>
static double softmax_max(const SoftmaxJob& job, int64_t row, int64_t begin, int64_t end) {
  return largest(static_cast<const T*>(job.x) + row * job.n + begin, end - begin);
}

// Of rows that are walked together, or a block of one: results of one step are the input of the
// next, and a step of one row does not wait for that of another.
template <class T>
struct Block {
  int64_t at, n, ahead;  // the first of n elements, and the distance to what is read next
  T* kept;               // of the same size, for what has no place in y
};

// y, or what is kept: exp(x - max).
template <class T>
ALWAYS_INLINE void softmax_exponentials(const SoftmaxJob& job, const Block<T>& block, T max) {
  typedef typename Native<T>::type V;
  const T* x = static_cast<const T*>(job.x) + block.at;
  T* y = job.kind == kLogSoftmax ? block.kept : static_cast<T*>(job.y) + block.at;
  const auto of = [&](V v) __attribute__((always_inline)) { return exp_parts(v - max).value(); };
  write(
      y, block.n, false,
      [&](int64_t i) __attribute__((always_inline)) {
        prefetch(x, i + block.ahead);
        return of(load<V>(x + i));
      },
      [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        store_first(y + i, count, of(load_first<V>(x + i, count, max)));
      });
}

// Those of the exponentials, or of the products that backward needs.
template <class T>
ALWAYS_INLINE double softmax_sum(const SoftmaxJob& job, const Block<T>& block) {
  const T* x = static_cast<const T*>(job.x) + block.at;
  const T* dy = static_cast<const T*>(job.dy) + block.at;
  const T* e = job.kind == kLogSoftmax ? block.kept : static_cast<const T*>(job.y) + block.at;
  double sum;
  if (job.kind == kSoftmaxBackward) {
    paired_sums<1>(
        block.n, T{}, &sum,
        [](int64_t, int64_t, auto g, auto y)
            __attribute__((always_inline)) { return Terms<decltype(g), 1>{{g * y}}; },
        dy, x);
    return sum;
  }
  const auto itself = [](int64_t, int64_t, auto v)
                          __attribute__((always_inline)) { return Terms<decltype(v), 1>{{v}}; };
  paired_sums<1>(block.n, T{}, &sum, itself, job.kind == kLogSoftmaxBackward ? dy : e);
  return sum;
}

// What smoothing of labels adds to the loss: the logits below the largest, by the classes' weights.
template <class T>
ALWAYS_INLINE double smooth_sum(const SoftmaxJob& job, const Block<T>& block, T max) {
  double sum = 0;
  if (job.smoothing != 0)
    paired_sums<1>(
        block.n, max, &sum,
        [&](int64_t, int64_t, auto v, auto w)
            __attribute__((always_inline)) { return Terms<decltype(v), 1>{{(v - max) * w}}; },
        static_cast<const T*>(job.x) + block.at,
        static_cast<const T*>(job.weights) + block.at % job.n);
  return sum;
}

template <class T>
static void softmax_sums(const SoftmaxJob& job, int64_t row, int64_t begin, int64_t end, double max,
                         double* sums, double* smooth) {
  T kept[kSumBlock];
  const T most = static_cast<T>(max);
  for (; begin < end; begin += kSumBlock, ++sums, ++smooth) {
    const int64_t n = end - begin < kSumBlock ? end - begin : kSumBlock;
    const Block<T> block{row * job.n + begin, n, n, kept};
    *smooth = smooth_sum(job, block, most);
    if (job.kind <= kCrossEntropy) softmax_exponentials(job, block, most);
    *sums = softmax_sum(job, block);
  }
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

// ahead: to what backward reads next.
template <class T>
static void softmax_results(const SoftmaxJob& job, int64_t row, int64_t begin, int64_t end,
                            const RowStats& stats, int64_t ahead) {
  const int64_t at = row * job.n + begin, n = end - begin;
  const T* x = static_cast<const T*>(job.x) + at;
  const T* dy = static_cast<const T*>(job.dy) + at;
  T* y = static_cast<T*>(job.y) + at;
  const auto times = [](T factor) {
    return [factor](auto v) __attribute__((always_inline)) { return v * factor; };
  };
  if (job.kind == kSoftmax) return fill(y, n, false, times(static_cast<T>(1 / stats.sum)), y);
  if (job.kind == kLogSoftmax) {
    const T max = stats.max, log_sum = log(stats.sum);
    return fill(
        y, n, false, [&](auto v) __attribute__((always_inline)) { return v - max - log_sum; }, x);
  }
  const T sum = stats.sum;
  const bool asks = asks_last(job.rows * job.n * static_cast<int64_t>(3 * sizeof(T)));
  const auto ask = [&](int64_t i) __attribute__((always_inline)) {
    if (asks) ask_row<T>(i, ahead, dy, x);
  };
  if (job.kind == kSoftmaxBackward)
    return fill_asking(
        y, n, false, ask,
        [&](auto g, auto v) __attribute__((always_inline)) { return v * (g - sum); }, dy, x);
  if (job.kind == kLogSoftmaxBackward)
    return fill_asking(
        y, n, false, ask,
        [&](auto g, auto v) __attribute__((always_inline)) { return g - exp(v) * sum; }, dy, x);
  const int64_t target = job.targets[row];
  const LossRow loss(job, target, class_weight<T>(job, target), stats, log(stats.sum));
  const T factor = loss.factor;
  if (begin == 0) job.losses[row] = loss.loss;
  if (loss.ignored)
    return fill(
        y, n, false, [](auto v) __attribute__((always_inline)) { return decltype(v){}; }, y);
  const T* smooth = static_cast<const T*>(job.smooth);
  if (smooth == nullptr)
    fill(y, n, false, times(factor), y);
  else
    fill(
        y, n, false, [&](auto v, auto s) __attribute__((always_inline)) { return v * factor - s; },
        y, smooth + begin);
  if (target >= begin && target < end) y[target - begin] -= T(loss.target_part);
}

template <class T>
static void softmax_finish(const SoftmaxJob& job, int64_t row, int64_t begin, int64_t end,
                           const RowStats& stats) {
  softmax_results<T>(job, row, begin, end, stats, kSumBlock);
}

template <class T>
ALWAYS_INLINE double logit_of_target(const SoftmaxJob& job, int64_t row) {
  if (job.kind != kCrossEntropy) return 0;
  const int64_t target = job.targets[row];
  if (target == job.ignored) return 0;
  return static_cast<double>(static_cast<const T*>(
      job.x)[(row / job.inner * job.n + target) * job.inner + row % job.inner]);
}

// A row of several blocks.
template <class T>
static void softmax_row(const SoftmaxJob& job, int64_t row) {
  RowStats stats{0, 0, 0, logit_of_target<T>(job, row)};
  if (job.kind <= kCrossEntropy) stats.max = softmax_max<T>(job, row, 0, job.n);
  for (int64_t at = 0; at < job.n; at += kSumBlock) {
    double sum, smooth;
    const int64_t end = job.n - at < kSumBlock ? job.n : at + kSumBlock;
    softmax_sums<T>(job, row, at, end, stats.max, &sum, &smooth);
    stats.sum += sum;
    stats.smooth += smooth;
  }
  softmax_results<T>(job, row, 0, job.n, stats, job.n);
}

// Rows [row, row + count) of one block together, step by step: at the end of a step a row waits for
// the sum or the largest of its lanes, and meanwhile the next one is under way.
template <class T>
static void softmax_together(const SoftmaxJob& job, int64_t row, int64_t count) {
  T kept[kSumBlock];
  RowStats stats[kTogether];
  const int64_t n = job.n;
  const auto block = [&](int64_t r) __attribute__((always_inline)) {
    return Block<T>{(row + r) * n, n, count * n, kept + r * n};
  };
  for (int64_t r = 0; r < count; ++r) {
    stats[r] = {0, 0, 0, logit_of_target<T>(job, row + r)};
    if (job.kind <= kCrossEntropy) stats[r].max = softmax_max<T>(job, row + r, 0, n);
    // Before the exponentials take the place of x, where the call works in place.
    stats[r].smooth = smooth_sum(job, block(r), static_cast<T>(stats[r].max));
  }
  if (job.kind <= kCrossEntropy)
    for (int64_t r = 0; r < count; ++r)
      softmax_exponentials(job, block(r), static_cast<T>(stats[r].max));
  for (int64_t r = 0; r < count; ++r) stats[r].sum = softmax_sum(job, block(r));
  for (int64_t r = 0; r < count; ++r) softmax_results<T>(job, row + r, 0, n, stats[r], count * n);
}

}  // namespace gradstep::GRADSTEP_ISA::softmax
