#include "engine/dispatch.hpp"

#include <atomic>

namespace gradstep {

#define TABLE_OF(isa, family, Kernels) \
  namespace isa::family {              \
  extern const Kernels kTable;         \
  }
#define TABLES_OF(isa)                                                                          \
  TABLE_OF(isa, optim, OptimKernels)                                                            \
  TABLE_OF(isa, dropout, DropoutKernels)                                                        \
  TABLE_OF(isa, norm, NormKernels)                                                              \
  TABLE_OF(isa, softmax, SoftmaxKernels)                                                        \
  TABLE_OF(isa, activation, ActivationKernels)                                                  \
  TABLE_OF(isa, loss, LossKernels)                                                              \
  namespace isa {                                                                               \
  static constexpr KernelTable kTables = {#isa,          &optim::kTable,   &dropout::kTable,    \
                                          &norm::kTable, &softmax::kTable, &activation::kTable, \
                                          &loss::kTable};                                       \
  }

TABLES_OF(baseline)
#if defined(GRADSTEP_HAS_AVX)
TABLES_OF(avx2)
TABLES_OF(avx512)
#endif

namespace {

struct Candidate {
  const KernelTable* table;
  bool (*runs_here)();
};

#if defined(GRADSTEP_HAS_AVX)
// All that -march=x86-64-v3 and -v4 let the compiler use beyond what their vectors need; the
// built-in asks the operating system too whether it saves the registers.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("popcnt");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

bool always() { return true; }

const Candidate kCandidates[] = {
    {&baseline::kTables, always},
#if defined(GRADSTEP_HAS_AVX)
    {&avx2::kTables, has_avx2},
    {&avx512::kTables, has_avx512},
#endif
};

std::atomic<const KernelTable*>& active() {
  static std::atomic<const KernelTable*> table{supported_tables().back()};
  return table;
}

}  // namespace

const std::vector<const KernelTable*>& supported_tables() {
  static const std::vector<const KernelTable*> tables = [] {
    std::vector<const KernelTable*> found;
    for (const Candidate& candidate : kCandidates)
      if (candidate.runs_here()) found.push_back(candidate.table);
    return found;
  }();
  return tables;
}

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : kCandidates) names.push_back(candidate.table->isa);
  return names;
}

const KernelTable& active_table() { return *active().load(std::memory_order_relaxed); }

bool activate_table(const std::string& isa) {
  for (const KernelTable* table : supported_tables())
    if (table->isa == isa) {
      active().store(table, std::memory_order_relaxed);
      return true;
    }
  return false;
}

int kernel_index(const std::string& name) {
  const OptimKernels& table = baseline::optim::kTable;
  for (int i = 0; i < table.kernel_count; ++i)
    if (table.kernels[i].name == name) return i;
  return -1;
}

}  // namespace gradstep
