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
};

struct Tensor {
  void* p;
  const void* g;  // written only where Hyper::zero_gradient
  void* state[kMaxStates];
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

struct OptimKernels {
  const Kernel* kernels;
  int kernel_count;
  int optimizer_count;  // the first ones; the others are assignments
  // For each block of kSumBlock elements of x, one result.
  ByType<void (*)(const void* x, int64_t n, double* blocks)> sum_squares;
  ByType<void (*)(const void* x, int64_t n, BlockSummary* blocks)> summarize;
};

}  // namespace gradstep
