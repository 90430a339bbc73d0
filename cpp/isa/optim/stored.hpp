// A step on arrays that are not all float32: the formula between loads and stores that convert, in
// one pass. How an array is kept is asked at each run of elements: branches that the CPU foresees,
// in place of a loop for each of the many combinations. The commonest have one: with fewer
// instructions between the formulas of two runs the CPU works on more of them at once.
#pragma once
#include <cstring>

#include "isa/optim/update.hpp"
#include "isa/storage.hpp"

namespace gradstep::GRADSTEP_ISA::optim {

static_assert(kStoredBlock % kTile == 0 && kStoredBlock % kScaleBlock == 0);
static_assert(kScaleBlock % kTile == 0 && kTile % storage::kPair == 0);

static constexpr Layout kPlainLayout{};

ALWAYS_INLINE int64_t bytes_of(Keep as) {
  return as == Keep::kPlain ? 4 : as == Keep::kSigned8 || as == Keep::kPositive8 ? 1 : 2;
}

// An address that may lie outside its array, to which the indices of elements are added.
ALWAYS_INLINE unsigned char* moved(unsigned char* p, int64_t bytes) {
  return reinterpret_cast<unsigned char*>(reinterpret_cast<uintptr_t>(p) +
                                          static_cast<uintptr_t>(bytes));
}

// An array in a block of kScaleBlock elements. Codes of 8 bits are written once a stored block is
// whole: until then their values wait in a buffer.
struct Run {
  unsigned char* first = nullptr;  // element 0 of the block
  unsigned char* more = nullptr;   // its missing bits, or its scale
  Keep as = Keep::kPlain;
  bool is_nan = false;       // by its scale
  int32_t origin = 0;        // of its codes
  float* buffer = nullptr;   // of what becomes codes, a stored block
  float* waiting = nullptr;  // this block's part of it
  // The last, incomplete pair stands in room of its own, from which it goes back to these places.
  unsigned char *place = nullptr, *more_place = nullptr;

  ALWAYS_INLINE bool is_coded() const { return buffer; }

  void begin(void* array, const Kept& kept, int64_t at, float* room) {
    as = kept.as;
    first = static_cast<unsigned char*>(array) + at * bytes_of(as);
    more = static_cast<unsigned char*>(kept.more);
    if (as == Keep::kSplit) more += at * 2;
    if (as != Keep::kSigned8 && as != Keep::kPositive8) return;
    more += at / kScaleBlock * 4;
    buffer = waiting = room;
    read_scale();
  }
  // within: a stored block, where the next block begins.
  void next(int64_t within) {
    first += kScaleBlock * bytes_of(as);
    if (as == Keep::kSplit) more += kScaleBlock * 2;
    if (!is_coded()) return;
    more += 4;
    waiting = buffer + within;
    read_scale();
  }
  void read_scale() {
    int32_t bits;
    std::memcpy(&bits, more, sizeof bits);
    is_nan = bits < 0 || bits >= storage::kInfinity;
    origin =
        as == Keep::kSigned8 ? storage::Signed8::origin(bits) : storage::Positive8::origin(bits);
  }

  template <class T>
  ALWAYS_INLINE T* at(int64_t i) const {
    return reinterpret_cast<T*>(first) + i;
  }
  ALWAYS_INLINE uint16_t* missing(int64_t i) const { return reinterpret_cast<uint16_t*>(more) + i; }

  // Asks for the lines of the pair at i: see ask_ahead.
  template <class Byte>
  ALWAYS_INLINE void ask(int64_t i) const {
    prefetch<Byte>(first, i * bytes_of(as));
    if (as == Keep::kPlain) prefetch<Byte>(first, i * 4 + 64);
    if (as == Keep::kSplit) prefetch(more, i * 2);
  }

  // n elements from i on to room for a whole pair of them, which is then read and written.
  void move_to(unsigned char* room, int64_t i, int64_t n) {
    const int64_t size = bytes_of(as);
    place = first + i * size;
    std::memcpy(room, place, static_cast<size_t>(n * size));
    first = moved(room, -i * size);
    if (as != Keep::kSplit) return;
    more_place = more + i * size;
    std::memcpy(room + storage::kPair * size, more_place, static_cast<size_t>(n * size));
    more = moved(room, (storage::kPair - i) * size);
  }
  void move_back(int64_t i, int64_t n) {
    const int64_t size = bytes_of(as);
    if (is_coded()) {
      first = moved(place, -i * size);
      return;
    }
    std::memcpy(place, first + i * size, static_cast<size_t>(n * size));
    if (as == Keep::kSplit) std::memcpy(more_place, more + i * size, static_cast<size_t>(n * size));
  }
};

template <Keep kAs>
ALWAYS_INLINE storage::Pair load_as(const Run& run, int64_t i) {
  if constexpr (kAs == Keep::kPlain) return storage::load_plain(run.at<float>(i));
  if constexpr (kAs == Keep::kBfloat16) return storage::Bfloat16::load(run.at<uint16_t>(i));
  if constexpr (kAs == Keep::kFloat16) return storage::Float16::load(run.at<uint16_t>(i));
  if constexpr (kAs == Keep::kSplit)
    return storage::Split::load(run.at<uint16_t>(i), run.missing(i));
  if constexpr (kAs == Keep::kSigned8 || kAs == Keep::kPositive8) {
    const f32 nan = f32{} + __builtin_nanf("");
    if (run.is_nan) return {nan, nan};
    typedef std::conditional_t<kAs == Keep::kSigned8, storage::Signed8, storage::Positive8> S;
    return S::load(run.at<uint8_t>(i), i32{} + run.origin);
  }
}

template <Keep kAs, int kTurn>
ALWAYS_INLINE void store_as(const Run& run, int64_t i, storage::Pair v,
                            const storage::Random& random) {
  if constexpr (kAs == Keep::kPlain) storage::store_plain(run.at<float>(i), v);
  if constexpr (kAs == Keep::kBfloat16)
    storage::Bfloat16::store(run.at<uint16_t>(i), v, random.bits<kTurn, 16, 0>(i),
                             random.bits<kTurn, 16, 1>(i));
  if constexpr (kAs == Keep::kSplit) storage::Split::store(run.at<uint16_t>(i), run.missing(i), v);
  if constexpr (kAs == Keep::kSigned8 || kAs == Keep::kPositive8) {
    store(run.waiting + i, v.even);
    store(run.waiting + i + storage::kWidth, v.odd);
  }
}

// The same for an array that is kept in one of several ways.
template <Keep... kAs>
ALWAYS_INLINE storage::Pair load_any(const Run& run, int64_t i) {
  storage::Pair v = {};
  (void)((run.as == kAs && (v = load_as<kAs>(run, i), true)) || ...);
  return v;
}
template <int kTurn, Keep... kAs>
ALWAYS_INLINE void store_any(const Run& run, int64_t i, storage::Pair v,
                             const storage::Random& random) {
  (void)((run.as == kAs && (store_as<kAs, kTurn>(run, i, v, random), true)) || ...);
}

#define STATE_KEEPS Keep::kBfloat16, Keep::kSigned8, Keep::kPositive8, Keep::kPlain
#define PARAMETER_KEEPS Keep::kSplit, Keep::kBfloat16, Keep::kPlain

// The codes of the n elements that wait, up to the end of the present block.
template <class S, int kTurn>
static void store_codes_as(const Run& run, int64_t n, const uint32_t* words) {
  const int64_t back = (n - 1) / kScaleBlock;
  uint8_t* codes = run.first - back * kScaleBlock;
  float* scales = reinterpret_cast<float*>(run.more) - back;
  for (int64_t at = 0; at < n; at += kScaleBlock)
    storage::store_block<S, kTurn>(run.buffer + at, n - at < kScaleBlock ? n - at : kScaleBlock,
                                   codes + at, scales++, storage::Random{words + at / 2});
}
template <int kTurn>
__attribute__((noinline)) static void store_codes(const Run& run, int64_t n,
                                                  const uint32_t* words) {
  if (run.as == Keep::kSigned8)
    store_codes_as<storage::Signed8, kTurn>(run, n, words);
  else
    store_codes_as<storage::Positive8, kTurn>(run, n, words);
}

// The pair that is asked for at i, of those in `reach` elements from there on.
ALWAYS_INLINE int64_t asked_for(int64_t i, int64_t reach) {
  constexpr int64_t kAhead = 512;
  return i + (kAhead < reach ? kAhead : reach - 1);
}

// A block of a tensor: its arrays, and their random bits.
template <int kStates>
struct Block {
  Run p, g, copy, average, state[kStates ? kStates : 1];
  alignas(64) float waiting[kStates ? kStates : 1][kStoredBlock];
  alignas(64) uint32_t words[kStoredBlock / 2];
  alignas(64) unsigned char room[4 + kStates][storage::kPair * 4];

  __attribute__((noinline)) void begin(const Tensor& tensor, const Layout& layout, int64_t at) {
    p.begin(tensor.p, layout.p, at, nullptr);
    g.begin(const_cast<void*>(tensor.g), {tensor.gradient, nullptr}, at, nullptr);
    if (layout.copy) copy.begin(layout.copy, {layout.copy_as, nullptr}, at, nullptr);
    if (layout.average) average.begin(layout.average, {layout.average_as, nullptr}, at, nullptr);
    for (int k = 0; k < kStates; ++k)
      state[k].begin(tensor.state[k], layout.state[k], at, waiting[k]);
  }
  template <class Each>
  ALWAYS_INLINE void each(const Each& f) {
    f(p), f(g);
    if (copy.first) f(copy);
    if (average.first) f(average);
    for (int k = 0; k < kStates; ++k) f(state[k]);
  }
  // Not for 8 bits, where memory is not the limit.
  ALWAYS_INLINE void ask_ahead(int64_t i, int64_t reach) {
    if constexpr (kBytes == 64) {
      for (int k = 0; k < kStates; ++k)
        if (state[k].is_coded()) return;
      const int64_t at = asked_for(i, reach);
      p.ask<unsigned char>(at), g.ask<const unsigned char>(at);
      if (copy.first) copy.ask<unsigned char>(at);
      if (average.first) average.ask<unsigned char>(at);
      for (int k = 0; k < kStates; ++k) state[k].template ask<unsigned char>(at);
    }
  }
  void next(int64_t within) {
    each([&](Run& run) __attribute__((always_inline)) { run.next(within); });
  }
  // The last pair, of which there are only n elements.
  __attribute__((noinline)) void move_out(int64_t i, int64_t n) {
    std::memset(room, 0, sizeof room);
    unsigned char* next = room[0];
    each([&](Run& run) {
      run.move_to(next, i, n);
      next += sizeof room[0];
    });
  }
  __attribute__((noinline)) void move_back(int64_t i, int64_t n) {
    each([&](Run& run) { run.move_back(i, n); });
  }
};

template <int kStates>
static bool draws(const Layout& layout) {
  const auto random = [](Keep as) {
    return as == Keep::kBfloat16 || as == Keep::kSigned8 || as == Keep::kPositive8;
  };
  bool any = random(layout.p.as) || random(layout.average_as);
  for (int k = 0; k < kStates; ++k) any |= random(layout.state[k].as);
  return any;
}

__attribute__((noinline)) static void draw(const Layout& layout, int64_t step, int64_t at,
                                           int64_t n, uint32_t* words) {
  storage::random_words(layout.seed, static_cast<uint64_t>(step), layout.first_tile + at / kTile, n,
                        words);
}

// The pairs of n elements, whole ones, of arrays that are kept so, where nothing else is written.
// reach: as in update_stored, from the first of them on.
template <Keep kParameterAs, Keep kStatesAs, class F, int... kState>
__attribute__((noinline)) static void update_pairs(const F& formula,
                                                   const Preparation<float>& preparation,
                                                   const Block<sizeof...(kState)>& block, int64_t n,
                                                   int64_t reach, const storage::Random& bits) {
  const F f = formula;  // copies, which no store can change
  const Preparation<float> prepare = preparation;
  Run p = block.p, g = block.g, states[] = {block.state[kState]..., {}};
  p.as = kParameterAs, g.as = Keep::kBfloat16;
  ((states[kState].as = kStatesAs), ...);
  for (int64_t i = 0; i < n; i += storage::kPair) {
    if constexpr (kBytes == 64) {
      const int64_t at = asked_for(i, reach - i);
      p.ask<unsigned char>(at), g.ask<const unsigned char>(at);
      (states[kState].template ask<unsigned char>(at), ...);
    }
    storage::Pair parameter = load_as<kParameterAs>(p, i),
                  gradient = load_as<Keep::kBfloat16>(g, i);
    storage::Pair state[] = {load_as<kStatesAs>(states[kState], i)..., {}};
    if (prepare.active)
      gradient = {prepare(gradient.even, parameter.even), prepare(gradient.odd, parameter.odd)};
    f(parameter.even, gradient.even, state[kState].even...);
    f(parameter.odd, gradient.odd, state[kState].odd...);
    store_as<kParameterAs, kTurns[0]>(p, i, parameter, bits);
    (store_as<kStatesAs, kTurns[1 + kState]>(states[kState], i, state[kState], bits), ...);
  }
}

// Whether this block has been done by update_pairs.
template <class F, int... kState>
ALWAYS_INLINE bool update_common(const F& f, const Preparation<float>& prepare,
                                 const Block<sizeof...(kState)>& block, int64_t n, int64_t reach,
                                 const storage::Random& bits) {
  const auto is = [&](Keep parameter, [[maybe_unused]] Keep states) __attribute__((always_inline)) {
    return block.p.as == parameter && ((block.state[kState].as == states) && ...);
  };
  const auto done = [&]<Keep kParameterAs, Keep kStatesAs>() __attribute__((always_inline)) {
    if (!is(kParameterAs, kStatesAs)) return false;
    update_pairs<kParameterAs, kStatesAs, F, kState...>(f, prepare, block, n, reach, bits);
    return true;
  };
  return done.template operator()<Keep::kSplit, Keep::kBfloat16>() ||
         done.template operator()<Keep::kSplit, Keep::kPlain>() ||
         done.template operator()<Keep::kBfloat16, Keep::kBfloat16>();
}

// reach: elements from the item's first on that the caller has to do.
template <class F, int... kState>
ALWAYS_INLINE void update_stored(const F& f, const Preparation<float>& prepare,
                                 const Weights& weights, int64_t step, bool zero_gradient,
                                 const Item& item, int64_t reach, const Tensor& tensor) {
  constexpr int kStates = sizeof...(kState);
  const Layout& layout = tensor.layout ? *tensor.layout : kPlainLayout;
  const bool random = draws<kStates>(layout);
  Block<kStates> block;
  block.begin(tensor, layout, item.begin);
  for (int64_t at = item.begin; at < item.end; at += kScaleBlock) {
    const int64_t n = item.end - at < kScaleBlock ? item.end - at : kScaleBlock;
    const int64_t within = at % kStoredBlock;
    if (random && within == 0)
      draw(layout, step, at, item.end - at < kStoredBlock ? item.end - at : kStoredBlock,
           block.words);
    const storage::Random bits{block.words + within / 2};
    const bool common =
        !layout.copy && !layout.average && !zero_gradient && block.g.as == Keep::kBfloat16 &&
        n % storage::kPair == 0 &&
        update_common<F, kState...>(f, prepare, block, n, item.begin + reach - at, bits);
    for (int64_t i = common ? n : 0; i < n; i += storage::kPair) {
      block.ask_ahead(i, item.begin + reach - at - i);
      if (i + storage::kPair > n) block.move_out(i, n - i);
      storage::Pair p = load_any<PARAMETER_KEEPS>(block.p, i);
      storage::Pair g = load_any<Keep::kBfloat16, Keep::kFloat16, Keep::kPlain>(block.g, i);
      storage::Pair state[] = {load_any<STATE_KEEPS>(block.state[kState], i)..., {}};
      if (prepare.active) g = {prepare(g.even, p.even), prepare(g.odd, p.odd)};
      f(p.even, g.even, state[kState].even...);
      f(p.odd, g.odd, state[kState].odd...);
      store_any<kTurns[0], PARAMETER_KEEPS>(block.p, i, p, bits);
      (store_any<kTurns[1 + kState], STATE_KEEPS>(block.state[kState], i, state[kState], bits),
       ...);
      if (layout.average) {
        storage::Pair average = load_any<Keep::kBfloat16, Keep::kPlain>(block.average, i);
        average = {weights(average.even, p.even), weights(average.odd, p.odd)};
        store_any<kAverageTurn, Keep::kBfloat16, Keep::kPlain>(block.average, i, average, bits);
      }
      if (layout.copy) {
        if (layout.copy_as == Keep::kFloat16)
          storage::Float16::store(block.copy.template at<uint16_t>(i), p);
        else
          storage::Bfloat16::store(block.copy.template at<uint16_t>(i), p);
      }
      if (zero_gradient) {
        std::memset(block.g.first + i * bytes_of(block.g.as), 0, sizeof(u32));
        if (block.g.as == Keep::kPlain)
          std::memset(block.g.template at<float>(i) + storage::kWidth, 0, sizeof(u32));
      }
    }
    if (const int64_t last = n % storage::kPair; last) block.move_back(n - last, last);
    const int64_t done = within + n;
    if (done == kStoredBlock || at + n == item.end)
      (void)((block.state[kState].is_coded() &&
              (store_codes<kTurns[1 + kState]>(block.state[kState], done, block.words), false)) ||
             ...);
    if (at + n < item.end) block.next(done % kStoredBlock);
  }
}

}  // namespace gradstep::GRADSTEP_ISA::optim
