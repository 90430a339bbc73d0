// What a plan asks of its gradients before a step: the squares of their elements, or a summary; and
// their sums over several batches.
#pragma once
#include "isa/optim/update.hpp"
#include "isa/reduce.hpp"
#include "isa/storage.hpp"

namespace gradstep::GRADSTEP_ISA::optim {

template <class T>
static void sum_squares(const void* data, int64_t n, double* blocks) {
  const T* x = static_cast<const T*>(data);
  for (int64_t at = 0; at < n; at += kSumBlock, ++blocks) {
    Row sum = Row::filled(0);
    rows<T>(x + at, n - at < kSumBlock ? n - at : kSumBlock, 0,
            [&](const Row& row) __attribute__((always_inline)) {
              for (int i = 0; i < Row::kVectors; ++i) sum.v[i] = sum.v[i] + row.v[i] * row.v[i];
            });
    *blocks = sum.fold(Add{});
  }
}

// Elements that are not finite take no part in min, max and the sums: the last row is filled with
// NaN, and the filling taken off the count.
template <class T>
static BlockSummary summarize_block(const T* x, int64_t n) {
  const double inf = __builtin_inf();
  Row low = Row::filled(inf), high = Row::filled(-inf), sum = Row::filled(0), squares = sum;
  i64 nonfinite = {};
  rows<T>(x, n, static_cast<T>(__builtin_nan("")),
          [&](const Row& row) __attribute__((always_inline)) {
            for (int i = 0; i < Row::kVectors; ++i) {
              const f64 v = row.v[i];
              const i64 finite = (i64)((v - v) == f64{});
              const f64 value = finite ? v : f64{};
              const f64 least = finite ? v : f64{} + inf, most = finite ? v : f64{} - inf;
              low.v[i] = least < low.v[i] ? least : low.v[i];
              high.v[i] = most > high.v[i] ? most : high.v[i];
              sum.v[i] = sum.v[i] + value;
              squares.v[i] = squares.v[i] + value * value;
              nonfinite += finite + 1;
            }
          });
  const auto smaller = [](f64 a, f64 b) __attribute__((always_inline)) { return b < a ? b : a; };
  const auto larger = [](f64 a, f64 b) __attribute__((always_inline)) { return b > a ? b : a; };
  BlockSummary result{low.fold(smaller), high.fold(larger), sum.fold(Add{}), squares.fold(Add{}),
                      -((kSumLanes - n % kSumLanes) % kSumLanes)};
  for (int i = 0; i < Row::kWidth; ++i) result.nonfinite += nonfinite[i];
  return result;
}

template <class T>
static void summarize(const void* data, int64_t n, BlockSummary* blocks) {
  const T* x = static_cast<const T*>(data);
  for (int64_t at = 0; at < n; at += kSumBlock)
    *blocks++ = summarize_block(x + at, n - at < kSumBlock ? n - at : kSumBlock);
}

// The same of numbers kept in 16 bits: S of storage.hpp.
template <class S, class Block, void (*kReduce)(const void*, int64_t, Block*)>
static void reduce_stored(const void* data, int64_t n, Block* blocks) {
  const auto* x = static_cast<const uint16_t*>(data);
  alignas(64) float values[kSumBlock];
  for (int64_t at = 0; at < n; at += kSumBlock) {
    const int64_t size = n - at < kSumBlock ? n - at : kSumBlock;
    storage::load_all<S>(x + at, size, values);
    kReduce(values, size, blocks++);
  }
}

struct Plus {
  template <class V>
  ALWAYS_INLINE void operator()(V& total, V x) const {
    total = total + x;
  }
};

// A block is summed while it is in L1.
template <class T>
static void accumulate(void* into, const void* data, int64_t n, double* blocks) {
  T* total = static_cast<T*>(into);
  const T* x = static_cast<const T*>(data);
  for (int64_t at = 0; at < n; at += kSumBlock) {
    const int64_t size = n - at < kSumBlock ? n - at : kSumBlock;
    update(Plus{}, size, n - at, total + at, x + at);
    sum_squares<T>(total + at, size, blocks++);
  }
}

// The same for x kept in 16 bits.
template <class S>
static void accumulate_stored(void* into, const void* data, int64_t n, double* blocks) {
  float* total = static_cast<float*>(into);
  const auto* x = static_cast<const uint16_t*>(data);
  alignas(64) float values[kSumBlock];
  for (int64_t at = 0; at < n; at += kSumBlock) {
    const int64_t size = n - at < kSumBlock ? n - at : kSumBlock;
    storage::load_all<S>(x + at, size, values);
    accumulate<float>(total + at, values, size, blocks++);
  }
}

}  // namespace gradstep::GRADSTEP_ISA::optim
