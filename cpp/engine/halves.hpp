// Arrays kept in 16 bits: float32 kernels work on a piece at a time, widened into memory that stays
// in the caches and rounded once on its way back.
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <optional>

#include "engine/dtype.hpp"

namespace gradstep {

constexpr bool is_half(DType type) { return type == kBfloat16 || type == kFloat16; }
// What formulas compute in.
constexpr DType value_type(DType type) { return is_half(type) ? kFloat32 : type; }

// to[i] = x[first + i] for n elements of a half type.
void widen(DType type, const void* x, int64_t first, int64_t n, float* to);
// And back. Past the cache the caller owes an end_narrow() before another thread may look.
void narrow(DType type, const float* from, void* y, int64_t first, int64_t n, bool past_cache);
void end_narrow(bool past_cache);
// Whole arrays of n elements, on as many threads as they are worth.
void widen_array(DType type, int64_t n, const void* x, float* y, bool add);  // y = x, or y += x
void narrow_array(DType type, int64_t n, const float* x, void* y);

// Element i of an array of a half type, or of one that formulas compute in.
double number_at(const void* data, DType type, int64_t i);
void set_numbers(void* data, DType type, int64_t first, int64_t n, const double* values);

// Floats up to where a vector may begin.
constexpr int64_t whole_lines(int64_t floats) { return (floats + 15) / 16 * 16; }

// Memory for the tasks of a call, taken before they begin: as much for each thread, aligned.
class Scratch {
 public:
  explicit Scratch(int64_t floats);

  // A thread's part, until this is gone.
  class Part {
   public:
    explicit Part(const Scratch& from);
    ~Part();
    Part(const Part&) = delete;
    Part& operator=(const Part&) = delete;
    float* data() const { return from_.first_ + index_ * from_.floats_; }

   private:
    const Scratch& from_;
    int index_ = 0;
  };

 private:
  int64_t floats_;
  int parts_;
  std::unique_ptr<float[]> memory_;
  float* first_;
  std::unique_ptr<std::atomic<bool>[]> taken_;
};

// Elements that stay in L1, with others beside them.
inline constexpr int64_t kHalfPiece = 2048;

// compute(begin, end, x, y) on pieces that cover [begin, end), with pointers to their first
// elements in arrays of value_type(type): one piece, the arrays' own memory, where that is their
// type. Otherwise pieces have `size` elements, which memory() has room for, times the inputs x, and
// y takes the place of x[0].
template <size_t kInputs, class Memory, class Compute>
void in_pieces(DType type, int64_t begin, int64_t end, int64_t size, const Memory& memory,
               const std::array<const void*, kInputs>& x, void* y, bool past_cache,
               const Compute& compute) {
  std::array<const void*, kInputs> here;
  if (!is_half(type)) {
    for (size_t k = 0; k < kInputs; ++k) here[k] = at(x[k], type, begin);
    return compute(begin, end, here, at(y, type, begin));
  }
  const auto& own = memory();
  float* const values = own.data();
  const int64_t apart = whole_lines(size);
  for (int64_t i = begin; i < end; i += size) {
    const int64_t stop = std::min(i + size, end);
    for (size_t k = 0; k < kInputs; ++k) {
      widen(type, x[k], i, stop - i, values + k * apart);
      here[k] = values + k * apart;
    }
    compute(i, stop, here, static_cast<void*>(values));
    narrow(type, values, y, i, stop - i, past_cache);
  }
  end_narrow(past_cache);
}

// The same where elements are alone, in memory of the stack.
template <size_t kInputs, class Compute>
void in_pieces(DType type, int64_t begin, int64_t end, const std::array<const void*, kInputs>& x,
               void* y, bool past_cache, const Compute& compute) {
  struct alignas(64) Piece {
    float values[kInputs * kHalfPiece];
    Piece() {}  // nor are these set
    float* data() const { return const_cast<float*>(values); }
  };
  in_pieces(type, begin, end, kHalfPiece, [] { return Piece(); }, x, y, past_cache, compute);
}

// The same where `unit` elements belong together, however many these are.
template <size_t kInputs>
class Units {
 public:
  Units(DType type, int64_t unit)
      : type_(type),
        size_(std::max<int64_t>(2 * kHalfPiece / static_cast<int64_t>(kInputs) / unit, 1) * unit) {
    if (is_half(type)) scratch_.emplace(whole_lines(size_) * static_cast<int64_t>(kInputs));
  }
  template <class Compute>
  void in_pieces(int64_t begin, int64_t end, const std::array<const void*, kInputs>& x, void* y,
                 bool past_cache, const Compute& compute) const {
    gradstep::in_pieces(
        type_, begin, end, size_, [&] { return Scratch::Part(*scratch_); }, x, y, past_cache,
        compute);
  }

 private:
  DType type_;
  int64_t size_;
  std::optional<Scratch> scratch_;
};

}  // namespace gradstep
