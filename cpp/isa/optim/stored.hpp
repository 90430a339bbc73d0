// A step on arrays that are not all float32: block by block, what is stored otherwise goes through
// float32 buffers in L1, and the formula runs on these as ever.
#pragma once
#include <cstring>

#include "isa/optim/update.hpp"
#include "isa/storage.hpp"

namespace gradstep::GRADSTEP_ISA::optim {

static_assert(kStoredBlock % kTile == 0 && kStoredBlock % kScaleBlock == 0);

// Elements [begin, begin + n) of an array, in `buffer` or where they are.
__attribute__((noinline)) static float* loaded(void* array, const Kept& kept, int64_t begin,
                                               int64_t n, float* buffer) {
  const uint16_t* halves = static_cast<const uint16_t*>(array) + begin;
  const int8_t* bytes = static_cast<const int8_t*>(array) + begin;
  const auto scales = [&] { return static_cast<const float*>(kept.more) + begin / kScaleBlock; };
  switch (kept.as) {
    case Keep::kPlain:
      return static_cast<float*>(array) + begin;
    case Keep::kBfloat16:
      storage::load_all<storage::Bfloat16>(halves, n, buffer);
      break;
    case Keep::kFloat16:
      storage::load_all<storage::Float16>(halves, n, buffer);
      break;
    case Keep::kSplit:
      storage::load_split(halves, static_cast<const uint16_t*>(kept.more) + begin, n, buffer);
      break;
    case Keep::kSigned8:
      storage::load_blocks<storage::Signed8>(bytes, scales(), n, buffer);
      break;
    case Keep::kPositive8:
      storage::load_blocks<storage::Positive8>(bytes, scales(), n, buffer);
      break;
  }
  return buffer;
}

// Puts what `loaded` gave back, which may be changed by it.
__attribute__((noinline)) static void put_back(float* values, void* array, const Kept& kept,
                                               int64_t begin, int64_t n,
                                               const storage::Random& random) {
  uint16_t* halves = static_cast<uint16_t*>(array) + begin;
  int8_t* bytes = static_cast<int8_t*>(array) + begin;
  const auto scales = [&] { return static_cast<float*>(kept.more) + begin / kScaleBlock; };
  switch (kept.as) {
    case Keep::kPlain:
    case Keep::kFloat16:
      break;
    case Keep::kBfloat16:
      storage::store_all<storage::Bfloat16>(values, n, halves, random);
      break;
    case Keep::kSplit:
      storage::store_split(values, n, halves, static_cast<uint16_t*>(kept.more) + begin);
      break;
    case Keep::kSigned8:
      storage::store_blocks<storage::Signed8>(values, n, bytes, scales(), random);
      break;
    case Keep::kPositive8:
      storage::store_blocks<storage::Positive8>(values, n, bytes, scales(), random);
      break;
  }
}

static bool is_random(Keep as) {
  return as == Keep::kBfloat16 || as == Keep::kSigned8 || as == Keep::kPositive8;
}

static void write_copy(const float* values, const Layout& layout, int64_t begin, int64_t n) {
  uint16_t* copy = static_cast<uint16_t*>(layout.copy) + begin;
  if (layout.copy_as == Keep::kFloat16)
    storage::store_all<storage::Float16>(values, n, copy);
  else
    storage::store_all<storage::Bfloat16>(values, n, copy);
}

static constexpr Layout kPlainLayout{};

// formula(n, p, g, states) for each block of an item.
template <class Formula>
ALWAYS_INLINE void update_stored(const Item& item, const Tensor& tensor,
                                 const Preparation<float>& prepare, int64_t step,
                                 bool zero_gradient, const Formula& formula) {
  const Layout& layout = tensor.layout ? *tensor.layout : kPlainLayout;
  const Kept gradient{tensor.gradient, nullptr};
  bool draws = is_random(layout.p.as);
  for (const Kept& state : layout.state) draws |= is_random(state.as);
  alignas(64) float buffers[2 + kMaxStates][kStoredBlock];
  alignas(64) uint32_t random[kStoredBlock];
  for (int64_t begin = item.begin; begin < item.end; begin += kStoredBlock) {
    const int64_t n = item.end - begin < kStoredBlock ? item.end - begin : kStoredBlock;
    void* raw = const_cast<void*>(tensor.g);
    float* p = loaded(tensor.p, layout.p, begin, n, buffers[0]);
    const float* g = loaded(raw, gradient, begin, n, buffers[1]);
    float* state[kMaxStates];
    for (int k = 0; k < kMaxStates; ++k)
      state[k] = tensor.state[k]
                     ? loaded(tensor.state[k], layout.state[k], begin, n, buffers[2 + k])
                     : nullptr;
    if (prepare.active) {
      prepare_block(prepare, n, buffers[1], g, p);
      g = buffers[1];
    }
    formula(n, p, g, state);
    if (layout.copy) {
      const bool ends = layout.p.as == Keep::kPlain && n % storage::kWidth;
      // The caller's array has no room beyond its end, which vectors would read.
      if (ends) std::memcpy(buffers[0], p, static_cast<size_t>(n) * sizeof(float));
      write_copy(ends ? buffers[0] : p, layout, begin, n);
    }
    if (draws)
      storage::random_words(layout.seed, static_cast<uint64_t>(step),
                            layout.first_tile + begin / kTile, n, random);
    put_back(p, tensor.p, layout.p, begin, n, {random, 0});
    for (int k = 0; k < kMaxStates; ++k)
      if (state[k])
        put_back(state[k], tensor.state[k], layout.state[k], begin, n, {random, kTurn * (k + 1)});
    if (zero_gradient) {  // while it is in cache
      const size_t bytes = tensor.gradient == Keep::kPlain ? 4 : 2;
      std::memset(static_cast<char*>(raw) + static_cast<size_t>(begin) * bytes, 0,
                  static_cast<size_t>(n) * bytes);
    }
  }
}

}  // namespace gradstep::GRADSTEP_ISA::optim
