// Plain data between the engine and the kernels of activations.
#pragma once
#include <cstdint>

#include "isa/table.hpp"

namespace gradstep {

// Rows of `columns` values with a bias each. Backward: x is what the forward pass read where there
// is a bias, else what it wrote; dy is multiplied by scale.
struct BiasedJob {
  int64_t rows, columns;
  const void *x, *bias, *dy;
  void* y;       // backward: dx
  double scale;  // 1 without dropout
  double* sums;  // of the columns of dx
};

// One activation that treats every element alone. `past_cache`: y is not read again soon, so it
// goes to memory without a look at what was there.
struct Activation {
  const char* name;
  ByType<void (*)(double parameter, int64_t n, const void* x, void* y, bool past_cache)> forward;
  ByType<void (*)(double parameter, int64_t n, const void* dy, const void* saved, void* dx,
                  bool past_cache)>
      backward;
  // [begin, end): rows forward; columns, down all rows, backward.
  ByType<void (*)(double parameter, const BiasedJob&, int64_t begin, int64_t end)> biased;
  ByType<void (*)(double parameter, const BiasedJob&, int64_t begin, int64_t end)> biased_backward;
  bool reads_x;        // backward needs x rather than y
  bool stops_at_zero;  // backward gives 0 where y is 0
};

// x of shape (outer, channels, inner), a weight for each channel.
struct PreluJob {
  int64_t outer, channels, inner;
  const void *x, *weight, *dy;
  void* y;           // backward: dx
  double* partials;  // of the weight's gradient; see prelu_backward
};

// x of shape (outer, channels, pieces, inner), y of shape (outer, channels, inner).
struct MaxoutJob {
  int64_t outer, channels, pieces, inner;
  const void *x, *dy;
  void* y;  // backward: dx, shaped like x
};

// Rows of channels that one partial sum takes where channels are innermost; defines an order.
inline constexpr int64_t kChannelRows = 256;

struct ActivationKernels {
  const Activation* activations;
  int activation_count;
  // [begin, end): rows of `inner` elements, or rows of channels where inner = 1, from a multiple of
  // kChannelRows.
  ByType<void (*)(const PreluJob&, int64_t begin, int64_t end)> prelu;
  ByType<void (*)(const PreluJob&, int64_t begin, int64_t end)> prelu_backward;
  // [begin, end) of outer * channels.
  ByType<void (*)(const MaxoutJob&, int64_t begin, int64_t end)> maxout;
  ByType<void (*)(const MaxoutJob&, int64_t begin, int64_t end)> maxout_backward;
};

}  // namespace gradstep
