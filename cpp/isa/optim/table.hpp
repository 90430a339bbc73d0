// Plain data between the plan of a step and the optimizers' kernels. Anything here that is not a
// plain struct must inline: it is shared by units of different ISAs.
#pragma once
#include <cstdint>

#include "isa/table.hpp"

namespace gradstep {

inline constexpr int kMaxStates = 3;

// The name of a hyperparameter, hashed by the compiler (FNV-1a).
struct Name {
  const char* text;
  uint64_t hash;
  consteval Name(const char* name) : text(name), hash(of(name)) {}
  static constexpr uint64_t of(const char* name) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; ++name) h = (h ^ static_cast<unsigned char>(*name)) * 0x100000001b3u;
    return h;
  }
};

// The hyperparameters of one group at one step, asked for by name.
struct Hyper {
  const uint64_t* names;
  const double* values;
  int count;
  int64_t step;        // 1, 2, ...
  double scale;        // multiplies the gradient: loss scale and clip coefficient
  bool zero_gradient;  // once it was read
  mutable const char* missing = nullptr;  // set when a formula asks for what is not there

  __attribute__((always_inline)) double operator[](Name name) const {
    for (int i = 0; i < count; ++i)
      if (names[i] == name.hash) return values[i];
    missing = name.text;
    return __builtin_nan("");
  }
  // The same, and `otherwise` where there is none of this name.
  __attribute__((always_inline)) double get(Name name, double otherwise) const {
    for (int i = 0; i < count; ++i)
      if (names[i] == name.hash) return values[i];
    return otherwise;
  }
};

// How elements of float32 value are kept in an array.
enum class Keep : uint8_t {
  kPlain,     // the type of the formula
  kBfloat16,  // states, and parameters without a master: rounded with random bits
  kFloat16,   // gradients and copies only
  kSplit,     // parameters: a bfloat16, and its missing bits in Kept::more (int16_t)
  kSigned8,   // 8 bits in blocks, scales in Kept::more (float)
  kPositive8,
};

struct Kept {
  Keep as = Keep::kPlain;
  void* more = nullptr;
};

// Of a tensor whose arrays are not all plain.
struct Layout {
  Kept p, state[kMaxStates];
  void* average = nullptr;  // of the parameter over the steps
  Keep average_as = Keep::kPlain;
  void* copy = nullptr;  // of the parameter, rounded to nearest; written only
  Keep copy_as = Keep::kPlain;
  uint64_t seed = 0;       // of the random bits
  int64_t first_tile = 0;  // of the tensor's elements in their stream: see philox.hpp
};

// The arrays of a tensor share the random bits of a step, whose number is the offset of the stream.
// The parameter, then the states: to the left by so many bits they turn each word, and take its
// upper ones.
inline constexpr int kTurns[1 + kMaxStates] = {8, 0, 16, 24}, kAverageTurn = 4;
// Items of a tensor with a layout begin at multiples of so many elements.
inline constexpr int64_t kStoredBlock = 1024;

struct Tensor {
  void* p;
  const void* g;  // written only where Hyper::zero_gradient
  void* state[kMaxStates];
  Keep gradient;         // kPlain, kBfloat16 or kFloat16
  const Layout* layout;  // null where all else is plain
};

// Elements [begin, end) of one tensor.
struct Item {
  int64_t tensor, begin, end;
};

// A formula with its scalars, computed once per step; its type is known to the kernel only.
struct Formula {
  alignas(64) unsigned char bytes[192];
};

struct Kernel {
  struct Typed {
    void (*make)(const Hyper&, Formula*);
    void (*update)(const Formula&, const Tensor*, const Item*, int64_t count);
  };
  const char* name;
  int state_count;
  const char* state_names[kMaxStates];
  ByType<Typed> typed;
};

// What one block of a tensor holds; min, max and the sums are over finite elements.
struct BlockSummary {
  double min, max, sum, sum_squares;
  int64_t nonfinite;
};

// For each block of kSumBlock elements of x, one result.
template <class Block>
struct Reduction {
  typedef void (*Function)(const void* x, int64_t n, Block* blocks);
  ByType<Function> plain;
  Function bfloat16, float16;
};

// total += x, and for each block of kSumBlock elements the sum of squares of the new total.
struct Accumulation {
  typedef void (*Function)(void* total, const void* x, int64_t n, double* blocks);
  ByType<Function> plain;
  Function bfloat16, float16;  // of x; total is float32
};

struct OptimKernels {
  const Kernel* kernels;
  int kernel_count;
  int optimizer_count;  // the first ones; the others are assignments
  Reduction<double> sum_squares;
  Reduction<BlockSummary> summarize;
  Accumulation accumulate;
};

}  // namespace gradstep
