// Which ISA's kernels run.
#pragma once
#include <string>
#include <vector>

#include "kernels.hpp"

namespace gradstep {

// The tables that this build has and this CPU runs, slowest first.
const std::vector<const KernelTable*>& supported_tables();
// Every ISA this build was compiled for.
std::vector<std::string> compiled_isas();

// The active one: at first the best, or the one that GRADSTEP_SIMD names.
const KernelTable& active_table();
// False, and nothing changes, when `isa` is not among the supported ones.
bool activate_table(const std::string& isa);

// Position in KernelTable::kernels, the same for every ISA; -1 when there is none of that name.
int kernel_index(const std::string& name);

}  // namespace gradstep
