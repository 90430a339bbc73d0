#include "engine/dropout/dropout.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/cache_policy.hpp"
#include "engine/dispatch.hpp"
#include "engine/halves.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

namespace {

// Elements of a piece that stays in L1.
constexpr int64_t kPiece = 2048;
static_assert(kPiece % kDropoutTile == 0 && kHalfPiece % kDropoutTile == 0);
constexpr uint32_t kOne = 65536;

const DropoutKernels& kernels() { return *active_table().dropout; }

// compute(begin, end, x, y) puts the results of that range of x at y: where they belong, or, when
// what is written is more than the caches hold, in a piece of L1 that then goes past them. NumPy
// aligns large arrays to 16 bytes only, and aligned stores elsewhere would not match the stream's
// tiles. x and y are of value_type(arrays.type).
template <class Compute>
void write(const DropoutArrays& arrays, const Compute& compute) {
  const DropoutKernels& kernel = kernels();
  const DType type = arrays.type;
  const bool past = past_cache(arrays.n * bytes_of(type), arrays.y, {arrays.x});
  share_out(arrays.n, 1, kPiece, [&](int64_t begin, int64_t end) {
    if (!past || is_half(type))
      return in_pieces<1>(
          type, begin, end, {arrays.x}, arrays.y, past,
          [&](int64_t i, int64_t stop, const auto& x, void* y) { compute(i, stop, x[0], y); });
    alignas(64) char piece[kPiece * largest_bytes()];
    for (int64_t i = begin; i < end; i += kPiece) {
      const int64_t stop = std::min(i + kPiece, end);
      compute(i, stop, at(arrays.x, type, i), piece);
      kernel.copy_past_cache[type](stop - i, piece, at(arrays.y, type, i));
    }
    kernel.fence();
  });
}

// The cases that need no random bits. A product by 1 would change a signalling NaN, and one by 0 an
// infinity.
bool without_bits(const DropoutRule& rule, const DropoutArrays& arrays) {
  if (rule.threshold != 0 && rule.threshold != kOne) return false;
  const int64_t size = bytes_of(arrays.type);
  if (rule.threshold == 0 && arrays.x == arrays.y) return true;
  const auto fill = [&](int64_t begin, int64_t end, const void* x, void* y) {
    if (rule.threshold == 0)
      std::memcpy(y, x, (end - begin) * size);
    else
      std::memset(y, 0, (end - begin) * size);
  };
  if (!is_half(arrays.type))
    write(arrays, fill);
  else
    share_out(arrays.n, 1, kPiece, [&](int64_t begin, int64_t end) {
      fill(begin, end, at(arrays.x, arrays.type, begin), at(arrays.y, arrays.type, begin));
    });
  return true;
}

using RangeKernel = void (*const)(const DropoutRule&, uint64_t, int64_t, const void*, void*);

void apply(RangeKernel kernel, const DropoutRule& rule, const DropoutArrays& arrays,
           uint64_t first) {
  if (without_bits(rule, arrays)) return;
  write(arrays, [&](int64_t begin, int64_t end, const void* x, void* y) {
    kernel(rule, first + begin, end - begin, x, y);
  });
}

// Which groups are kept, drawn a window at a time.
class GroupMask {
 public:
  explicit GroupMask(const DropoutRule& rule) : rule_(rule) {}

  // 1 for kept, 0 for dropped: the bytes of `count` groups from `group` on, at least 1 and, on
  // return, no more than the window holds.
  const uint8_t* at(int64_t group, int64_t* count) {
    if (group < first_ || group >= first_ + kWindow) {
      first_ = group / kDropoutTile * kDropoutTile;
      kernels().keep_bytes(rule_, first_, kWindow, keep_);
    }
    *count = std::min(*count, first_ + kWindow - group);
    return keep_ + (group - first_);
  }

  uint8_t operator[](int64_t group) {
    int64_t count = 1;
    return *at(group, &count);
  }

 private:
  static constexpr int64_t kWindow = 256;
  const DropoutRule& rule_;
  int64_t first_ = -kWindow;
  uint8_t keep_[kWindow];
};

int64_t first_group_of_sample(const DropoutGroups& groups, int64_t element) {
  return element / groups.run / groups.channels / groups.repeats * groups.channels;
}

// The bytes of elements [begin, end), which belong to one sample.
void expand_runs(const DropoutGroups& groups, GroupMask& mask, int64_t begin, int64_t end,
                 uint8_t* keep) {
  const int64_t first_group = first_group_of_sample(groups, begin);
  int64_t channel = begin / groups.run % groups.channels;
  int64_t run_end = (begin / groups.run + 1) * groups.run;
  while (begin < end) {
    int64_t count;
    if (groups.run == 1) {
      count = std::min(end - begin, groups.channels - channel);
      const uint8_t* bytes = mask.at(first_group + channel, &count);
      std::memcpy(keep, bytes, count);
      channel += count;
    } else {
      count = std::min(end, run_end) - begin;
      std::memset(keep, mask[first_group + channel], count);
      run_end += groups.run, ++channel;
    }
    if (channel == groups.channels) channel = 0;
    begin += count, keep += count;
  }
}

// The bytes of elements [begin, end). Those of a sample repeat with its rows.
void expand(const DropoutGroups& groups, GroupMask& mask, int64_t begin, int64_t end,
            uint8_t* keep) {
  const int64_t row = groups.channels * groups.run, sample = groups.repeats * row;
  while (begin < end) {
    const int64_t count = std::min(end, (begin / sample + 1) * sample) - begin;
    int64_t filled = std::min(row, count);
    expand_runs(groups, mask, begin, begin + filled, keep);
    for (int64_t more; filled < count; filled += more) {
      more = std::min(filled, count - filled);
      std::memcpy(keep + filled, keep, more);
    }
    begin += count, keep += count;
  }
}

// Short runs: by one byte for each element.
void apply_bytes(const DropoutRule& rule, DType type, const DropoutGroups& groups, int64_t begin,
                 int64_t end, const void* x, void* y) {
  GroupMask mask(rule);
  uint8_t keep[kPiece];
  for (int64_t i = begin; i < end; i += kPiece) {
    const int64_t count = std::min(kPiece, end - i);
    expand(groups, mask, i, i + count, keep);
    kernels().scale_by_bytes[type](rule.scale, count, at(x, type, i - begin), keep,
                                   at(y, type, i - begin));
  }
}

// Long runs: each is scaled or set to 0 as a whole.
void apply_runs(const DropoutRule& rule, DType type, const DropoutGroups& groups, int64_t begin,
                int64_t end, const void* x, void* y) {
  GroupMask mask(rule);
  for (int64_t i = begin, count; i < end;
       i += count, x = at(x, type, count), y = at(y, type, count)) {
    const int64_t run = i / groups.run;
    count = std::min(end, (run + 1) * groups.run) - i;
    if (mask[first_group_of_sample(groups, i) + run % groups.channels])
      kernels().scale_all[type](rule.scale, count, x, y);
    else
      std::memset(y, 0, count * bytes_of(type));
  }
}

DropoutRule rule_of(double p, uint64_t seed, uint64_t offset) {
  const double scaled = p * kOne;  // exact: a power of two
  auto threshold = static_cast<uint32_t>(scaled);
  const double rest = scaled - threshold;
  threshold += rest > 0.5 || (rest == 0.5 && threshold % 2 == 1);
  return {seed, offset, threshold, 0, 0, 0};
}

}  // namespace

DropoutRule dropout_rule(double p, uint64_t seed, uint64_t offset) {
  DropoutRule rule = rule_of(p, seed, offset);
  if (rule.threshold < kOne) rule.scale = static_cast<double>(kOne) / (kOne - rule.threshold);
  return rule;
}

// A dropped unit becomes a = -lambda alpha, what SELU saturates at; then everything is scaled and
// shifted so that mean 0 and variance 1 stay: (q + a^2 q (1 - q))^-1/2, q the probability to keep.
DropoutRule alpha_dropout_rule(double p, uint64_t seed, uint64_t offset) {
  constexpr double kSaturation = -1.7580993408473766;
  DropoutRule rule = rule_of(p, seed, offset);
  if (rule.threshold == kOne) return rule;
  const double keep = static_cast<double>(kOne - rule.threshold) / kOne;
  const double drop = static_cast<double>(rule.threshold) / kOne;
  rule.scale = 1 / std::sqrt(keep + kSaturation * kSaturation * keep * drop);
  rule.shift = -rule.scale * drop * kSaturation;
  rule.dropped = rule.scale * kSaturation + rule.shift;
  return rule;
}

void dropout(const DropoutRule& rule, const DropoutArrays& arrays, uint64_t first) {
  apply(kernels().scale[value_type(arrays.type)], rule, arrays, first);
}

void alpha_dropout(const DropoutRule& rule, const DropoutArrays& arrays, uint64_t first) {
  apply(kernels().alpha[value_type(arrays.type)], rule, arrays, first);
}

void group_dropout(const DropoutRule& rule, const DropoutArrays& arrays,
                   const DropoutGroups& groups) {
  constexpr int64_t kLongRun = 64;
  if (without_bits(rule, arrays)) return;
  const auto compute = groups.run < kLongRun ? apply_bytes : apply_runs;
  const DType type = value_type(arrays.type);
  write(arrays, [&](int64_t begin, int64_t end, const void* x, void* y) {
    compute(rule, type, groups, begin, end, x, y);
  });
}

void dropout_mask(const DropoutRule& rule, uint64_t first, int64_t n, bool packed, uint8_t* keep) {
  const DropoutKernels& kernel = kernels();
  share_out(n, 1, kPiece, [&](int64_t begin, int64_t end) {
    if (packed)
      kernel.keep_bits(rule, first + begin, end - begin, keep + begin / 8);
    else
      kernel.keep_bytes(rule, first + begin, end - begin, keep + begin);
  });
}

}  // namespace gradstep
