// Dropout over whole arrays: what is drawn where, in parallel, past the cache where that pays.
#pragma once
#include <cstdint>

#include "isa/dropout/table.hpp"
#include "isa/table.hpp"

namespace gradstep {

// n values of x and the place of the results; y may be x.
struct DropoutArrays {
  DType type;
  int64_t n;
  const void* x;
  void* y;
};

// p, the probability to drop, is rounded to a multiple of 2^-16 (halves to even); what is kept is
// scaled by the reciprocal of the probability to keep that this gives, so the mean stays.
DropoutRule dropout_rule(double p, uint64_t seed, uint64_t offset);
// The constants of alpha dropout at that probability; its gradient is that of dropout at `scale`.
DropoutRule alpha_dropout_rule(double p, uint64_t seed, uint64_t offset);

// `first`, a multiple of kDropoutTile, is the stream's element of x[0].
void dropout(const DropoutRule& rule, const DropoutArrays& arrays, uint64_t first);
void alpha_dropout(const DropoutRule& rule, const DropoutArrays& arrays, uint64_t first);

// An array of shape (samples, repeats, channels, run) in C order. One element of the stream, number
// sample * channels + channel, decides on all values of a channel of a sample.
struct DropoutGroups {
  int64_t samples, repeats, channels, run;
};
void group_dropout(const DropoutRule& rule, const DropoutArrays& arrays,
                   const DropoutGroups& groups);

// n bytes of 1 for kept and 0 for dropped, or as many bits, lowest first.
void dropout_mask(const DropoutRule& rule, uint64_t first, int64_t n, bool packed, uint8_t* keep);

}  // namespace gradstep
