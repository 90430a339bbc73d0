#include "engine/halves.hpp"

#include "engine/dispatch.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

static const ConvertKernels& kernels() { return *active_table().convert; }

void widen(DType type, const void* x, int64_t first, int64_t n, float* to) {
  kernels().widen[type - kDTypes](n, at(x, type, first), to);
}

void narrow(DType type, const float* from, void* y, int64_t first, int64_t n, bool past_cache) {
  kernels().narrow[type - kDTypes](n, from, at(y, type, first), past_cache);
}

void end_narrow(bool past_cache) {
  if (past_cache) kernels().fence();
}

void widen_array(DType type, int64_t n, const void* x, float* y, bool add) {
  share_out(n, 1, 1, [&](int64_t begin, int64_t end) {
    if (!add) return widen(type, x, begin, end - begin, y + begin);
    alignas(64) float piece[kHalfPiece];
    for (int64_t i = begin; i < end; i += kHalfPiece) {
      const int64_t count = std::min(kHalfPiece, end - i);
      widen(type, x, i, count, piece);
      for (int64_t j = 0; j < count; ++j) y[i + j] += piece[j];
    }
  });
}

void narrow_array(DType type, int64_t n, const float* x, void* y) {
  share_out(n, 1, 1, [&](int64_t begin, int64_t end) {
    narrow(type, x + begin, y, begin, end - begin, false);
  });
}

double number_at(const void* data, DType type, int64_t i) {
  if (!is_half(type)) return value_at(data, type, i);
  float value;
  widen(type, data, i, 1, &value);
  return value;
}

void set_numbers(void* data, DType type, int64_t first, int64_t n, const double* values) {
  if (!is_half(type)) {
    for (int64_t i = 0; i < n; ++i) set_value(data, type, first + i, values[i]);
    return;
  }
  constexpr int64_t kSome = 64;
  float some[kSome];
  for (int64_t i = 0; i < n; i += kSome) {
    const int64_t count = std::min(kSome, n - i);
    for (int64_t j = 0; j < count; ++j) some[j] = static_cast<float>(values[i + j]);
    narrow(type, some, data, first + i, count, false);
  }
}

Scratch::Scratch(int64_t floats)
    : floats_(whole_lines(floats)),
      parts_(ThreadPool::instance().threads()),
      memory_(new float[parts_ * floats_ + 15]),
      first_(memory_.get() + (64 - reinterpret_cast<uintptr_t>(memory_.get()) % 64) % 64 / 4),
      taken_(new std::atomic<bool>[parts_]()) {}

// As many threads as there are parts look for one; should there be more by now, one waits.
Scratch::Part::Part(const Scratch& from) : from_(from) {
  while (from_.taken_[index_].exchange(true, std::memory_order_acquire))
    index_ = (index_ + 1) % from_.parts_;
}

Scratch::Part::~Part() { from_.taken_[index_].store(false, std::memory_order_release); }

}  // namespace gradstep
