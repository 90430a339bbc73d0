// Which ISA's kernels run.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "isa/activation/table.hpp"
#include "isa/convert/table.hpp"
#include "isa/dropout/table.hpp"
#include "isa/loss/table.hpp"
#include "isa/norm/table.hpp"
#include "isa/optim/table.hpp"
#include "isa/softmax/table.hpp"

namespace gradstep {

// What one ISA fills: a table of each family.
struct KernelTable {
  const char* isa;
  const OptimKernels* optim;
  const DropoutKernels* dropout;
  const NormKernels* norm;
  const SoftmaxKernels* softmax;
  const ActivationKernels* activation;
  const LossKernels* loss;
  const ConvertKernels* convert;
};

// The tables that this build has and this CPU runs, slowest first.
const std::vector<const KernelTable*>& supported_tables();
// Every ISA this build was compiled for.
std::vector<std::string> compiled_isas();
// Of those that this CPU does not run, the name and what the CPU lacks.
std::vector<std::pair<std::string, std::string>> missing_features();

// The active one: at first the best, or the one that GRADSTEP_SIMD names.
const KernelTable& active_table();
// False, and nothing changes, when `isa` is not among the supported ones.
bool activate_table(const std::string& isa);

// Position in OptimKernels::kernels, the same for every ISA; -1 when there is none of that name.
int kernel_index(const std::string& name);

}  // namespace gradstep
