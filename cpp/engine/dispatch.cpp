#include "engine/dispatch.hpp"

#include <atomic>

#include "engine/cpu.hpp"

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
  TABLE_OF(isa, convert, ConvertKernels)                                                        \
  namespace isa {                                                                               \
  static constexpr KernelTable kTables = {#isa,          &optim::kTable,   &dropout::kTable,    \
                                          &norm::kTable, &softmax::kTable, &activation::kTable, \
                                          &loss::kTable, &convert::kTable};                     \
  }

TABLES_OF(baseline)
#if defined(GRADSTEP_HAS_AVX)
TABLES_OF(avx2)
TABLES_OF(avx512)
#endif

namespace {

struct Candidate {
  const KernelTable* table;
  std::string (*missing)(const CpuWords&);  // nullptr: runs everywhere
};

const Candidate kCandidates[] = {
    {&baseline::kTables, nullptr},
#if defined(GRADSTEP_HAS_AVX)
    {&avx2::kTables, missing_for_avx2},
    {&avx512::kTables, missing_for_avx512},
#endif
};

std::string missing_for(const Candidate& candidate) {
  return candidate.missing ? candidate.missing(cpu_words()) : "";
}

std::atomic<const KernelTable*>& active() {
  static std::atomic<const KernelTable*> table{supported_tables().back()};
  return table;
}

}  // namespace

const std::vector<const KernelTable*>& supported_tables() {
  static const std::vector<const KernelTable*> tables = [] {
    std::vector<const KernelTable*> found;
    for (const Candidate& candidate : kCandidates)
      if (missing_for(candidate).empty()) found.push_back(candidate.table);
    return found;
  }();
  return tables;
}

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : kCandidates) names.push_back(candidate.table->isa);
  return names;
}

std::vector<std::pair<std::string, std::string>> missing_features() {
  std::vector<std::pair<std::string, std::string>> found;
  for (const Candidate& candidate : kCandidates)
    if (std::string missing = missing_for(candidate); !missing.empty())
      found.emplace_back(candidate.table->isa, std::move(missing));
  return found;
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
