// The same over rows that lie side by side: a vector holds one element of each.
#pragma once
#include "isa/softmax/rows.hpp"

namespace gradstep::GRADSTEP_ISA::softmax {

// One number for each of the rows of a value V, in double.
template <class V>
struct PerRow {
  typedef typename Lane<V>::type T;
  static constexpr int64_t kCount = kLanes<V, T>;
  alignas(64) double v[kCount];

  template <class Function>
  ALWAYS_INLINE void each(const Function& f) {
    sweep<double>(kCount, [&](auto type, int64_t i) __attribute__((always_inline)) {
      typedef typename decltype(type)::type W;
      store(v + i, f(load<W>(v + i)));
    });
  }
  ALWAYS_INLINE void add(const PerRow& other) {
    sweep<double>(kCount, [&](auto type, int64_t i) __attribute__((always_inline)) {
      typedef typename decltype(type)::type W;
      store(v + i, load<W>(v + i) + load<W>(other.v + i));
    });
  }
  ALWAYS_INLINE void add(V x) {
    T values[kCount];
    store(values, x);
    sweep<double>(kCount, [&](auto type, int64_t i) __attribute__((always_inline)) {
      typedef typename decltype(type)::type W;
      store(v + i, load<W>(v + i) + widened<W>(values + i));
    });
  }
  ALWAYS_INLINE V narrowed() const {
    T x[kCount];
    for (int64_t i = 0; i < kCount; ++i) x[i] = static_cast<T>(v[i]);
    return load<V>(x);
  }
};

// term(j) for j of [begin, end) in steps of kSumLanes, at most kPairedRows of them, added in pairs,
// pairs in pairs and so on. sums[k] is what 2^k of them came to, for each k in the count so far.
template <class V, class Term>
ALWAYS_INLINE V sum_in_pairs(int64_t begin, int64_t end, const Term& term) {
  V sums[5];
  int count = 0;
  for (int64_t j = begin; j < end && count < kPairedRows; j += kSumLanes, ++count) {
    V sum = term(j);
    int k = 0;
    for (; count >> k & 1; ++k) sum = sums[k] + sum;
    sums[k] = sum;
  }
  V sum = {};
  for (int k = 0; count >> k; ++k)
    if (count >> k & 1) sum = sums[k] + sum;
  return sum;
}

// The sum of the values term(j) over j, in the order of paired_sums for each block of kSumBlock.
template <class V, class Term>
ALWAYS_INLINE PerRow<V> sum_columns(int64_t n, const Term& term) {
  PerRow<V> total = {}, lanes[kSumLanes];
  for (int64_t at = 0; at < n; at += kSumBlock) {
    const int64_t end = n - at < kSumBlock ? n : at + kSumBlock;
    const int64_t used = end - at < kSumLanes ? end - at : kSumLanes;
    for (int64_t lane = 0; lane < used; ++lane) {
      lanes[lane] = {};
      for (int64_t j = at + lane; j < end; j += kPairedRows * kSumLanes)
        lanes[lane].add(sum_in_pairs<V>(j, end, term));
    }
    for (int64_t half = kSumLanes / 2; half > 0; half /= 2)
      for (int64_t lane = 0; lane < half && lane + half < used; ++lane)
        lanes[lane].add(lanes[lane + half]);
    total.add(lanes[0]);
  }
  return total;
}

// kLanes<V, T> rows side by side: element j of them is a value at x + j * stride.
template <class V>
struct Columns {
  typedef typename Lane<V>::type T;
  int64_t stride;
  const T *x, *dy;
  T* y;
  ALWAYS_INLINE V at(const T* p, int64_t j) const { return load<V>(p + j * stride); }
};

template <class V>
ALWAYS_INLINE void softmax_backward_columns(const SoftmaxJob& job, const Columns<V>& c) {
  if (job.kind == kLogSoftmaxBackward) {
    const V sum = sum_columns<V>(job.n, [&](int64_t j) __attribute__((always_inline)) {
                    return c.at(c.dy, j);
                  }).narrowed();
    for (int64_t j = 0; j < job.n; ++j)
      store(c.y + j * c.stride, c.at(c.dy, j) - exp(c.at(c.x, j)) * sum);
    return;
  }
  const V sum = sum_columns<V>(job.n, [&](int64_t j) __attribute__((always_inline)) {
                  return c.at(c.dy, j) * c.at(c.x, j);
                }).narrowed();
  for (int64_t j = 0; j < job.n; ++j)
    store(c.y + j * c.stride, c.at(c.x, j) * (c.at(c.dy, j) - sum));
}

template <class V>
ALWAYS_INLINE void loss_columns(const SoftmaxJob& job, const Columns<V>& c, int64_t row,
                                int64_t row_count, V max, const PerRow<V>& sum,
                                const PerRow<V>& smooth, const double* logits) {
  typedef typename Lane<V>::type T;
  constexpr int64_t kCount = PerRow<V>::kCount;
  PerRow<V> log_sum = sum, factor = {};
  log_sum.each([](auto s) __attribute__((always_inline)) { return log(s); });
  T most[kCount], target_part[kCount] = {};
  store(most, max);
  for (int64_t i = 0; i < kCount && i < row_count; ++i) {
    const int64_t target = job.targets[row + i];
    const RowStats stats{static_cast<double>(most[i]), sum.v[i], smooth.v[i], logits[i]};
    const LossRow loss(job, target, class_weight<T>(job, target), stats, log_sum.v[i]);
    job.losses[row + i] = loss.loss;
    factor.v[i] = loss.factor;
    target_part[i] = static_cast<T>(loss.target_part);
  }
  const V factors = factor.narrowed();
  const T* added = static_cast<const T*>(job.smooth);
  for (int64_t j = 0; j < job.n; ++j) {
    V y = c.at(c.y, j) * factors;
    if (added != nullptr) y = y - added[j];
    store(c.y + j * c.stride, y);
  }
  for (int64_t i = 0; i < kCount && i < row_count; ++i) {
    const int64_t target = job.targets[row + i];
    if (target != job.ignored)
      c.y[target * c.stride + i] -= target_part[i];
    else
      for (int64_t j = 0; j < job.n; ++j) c.y[j * c.stride + i] = 0;
  }
}

// Rows [row, row + kLanes<V, T>), of which the first row_count are real.
template <class V>
ALWAYS_INLINE void softmax_columns(const SoftmaxJob& job, const Columns<V>& c, int64_t row,
                                   int64_t row_count) {
  if (job.kind == kSoftmaxBackward || job.kind == kLogSoftmaxBackward)
    return softmax_backward_columns(job, c);
  typedef typename Lane<V>::type T;
  constexpr int64_t kCount = PerRow<V>::kCount;
  V max = splat<V>(-__builtin_inf());
  for (int64_t j = 0; j < job.n; ++j) {
    const V x = c.at(c.x, j);
    max = x > max ? x : max;
  }
  double logits[kCount] = {};
  PerRow<V> smooth = {};
  if (job.kind == kCrossEntropy)
    for (int64_t i = 0; i < kCount && i < row_count; ++i) {
      const int64_t target = job.targets[row + i];
      if (target != job.ignored) logits[i] = static_cast<double>(c.x[target * c.stride + i]);
    }
  const T* weights = static_cast<const T*>(job.weights);
  if (job.smoothing != 0)
    smooth = sum_columns<V>(job.n, [&](int64_t j) __attribute__((always_inline)) {
      return (c.at(c.x, j) - max) * splat<V>(weights[j]);
    });
  const bool keep = job.kind != kLogSoftmax;
  PerRow<V> sum = sum_columns<V>(job.n, [&](int64_t j) __attribute__((always_inline)) {
    const V e = exp_parts(c.at(c.x, j) - max).value();
    if (keep) store(c.y + j * c.stride, e);
    return e;
  });
  if (job.kind == kCrossEntropy)
    return loss_columns(job, c, row, row_count, max, sum, smooth, logits);
  if (job.kind == kSoftmax) {
    sum.each([](auto s) __attribute__((always_inline)) { return 1.0 / s; });
    const V factor = sum.narrowed();
    for (int64_t j = 0; j < job.n; ++j) store(c.y + j * c.stride, c.at(c.y, j) * factor);
    return;
  }
  sum.each([](auto s) __attribute__((always_inline)) { return log(s); });
  const V log_sum = sum.narrowed();
  for (int64_t j = 0; j < job.n; ++j) store(c.y + j * c.stride, c.at(c.x, j) - max - log_sum);
}

// A group of short rows, turned in a buffer. Columns without a row hold zeros.
template <class T>
static void softmax_group(const SoftmaxJob& job, int64_t row, int64_t count) {
  typedef typename Native<T>::type V;
  alignas(64) T x[kShortRow * kGroup], dy[kShortRow * kGroup];
  const bool backward = job.kind == kSoftmaxBackward || job.kind == kLogSoftmaxBackward;
  const int64_t n = job.n, inner = job.inner;
  const auto start = [&](int64_t r) __attribute__((always_inline)) {
    return inner == 1 ? (row + r) * n : (row + r) / inner * n * inner + (row + r) % inner;
  };
  if (count < kGroup)
    for (int64_t i = 0; i < n * kGroup; ++i) x[i] = dy[i] = 0;
  for (int64_t r = 0; r < count; ++r) {
    const T* from = static_cast<const T*>(job.x) + start(r);
    for (int64_t j = 0; j < n; ++j) x[j * kGroup + r] = from[j * inner];
  }
  for (int64_t r = 0; backward && r < count; ++r) {
    const T* from = static_cast<const T*>(job.dy) + start(r);
    for (int64_t j = 0; j < n; ++j) dy[j * kGroup + r] = from[j * inner];
  }
  for (int64_t i = 0; i < count; i += kLanes<V, T>)
    softmax_columns<V>(job, {kGroup, x + i, dy + i, x + i}, row + i, count - i);
  for (int64_t r = 0; r < count; ++r) {
    T* to = static_cast<T*>(job.y) + start(r);
    for (int64_t j = 0; j < n; ++j) to[j * inner] = x[j * kGroup + r];
  }
}

// Rows side by side in memory, all with the same r / inner.
template <class T>
static void softmax_side_by_side(const SoftmaxJob& job, int64_t row, int64_t count) {
  const int64_t at = row / job.inner * job.n * job.inner + row % job.inner;
  sweep<T>(count, [&](auto type, int64_t i) __attribute__((always_inline)) {
    typedef typename decltype(type)::type V;
    const Columns<V> columns{job.inner, static_cast<const T*>(job.x) + at + i,
                             static_cast<const T*>(job.dy) + at + i,
                             static_cast<T*>(job.y) + at + i};
    softmax_columns<V>(job, columns, row + i, count - i);
  });
}

template <class T>
static void softmax_rows(const SoftmaxJob& job, int64_t begin, int64_t end) {
  if (job.n <= kShortRow && job.inner < kGroup) {
    for (int64_t row = begin; row < end; row += kGroup)
      softmax_group<T>(job, row, end - row < kGroup ? end - row : kGroup);
    return;
  }
  if (job.inner == 1) {
    const int64_t fit = (job.kind <= kCrossEntropy ? kElements : kElementsBackward) / job.n;
    const int64_t most = fit < kTogether ? fit : kTogether;
    if (fit < 2)
      for (int64_t row = begin; row < end; ++row) softmax_row<T>(job, row);
    else
      for (int64_t row = begin; row < end; row += most)
        softmax_together<T>(job, row, end - row < most ? end - row : most);
    return;
  }
  for (int64_t row = begin; row < end;) {
    const int64_t left = job.inner - row % job.inner, count = left < end - row ? left : end - row;
    softmax_side_by_side<T>(job, row, count);
    row += count;
  }
}

}  // namespace gradstep::GRADSTEP_ISA::softmax
