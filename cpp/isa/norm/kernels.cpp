// Compiled once per ISA with -DGRADSTEP_ISA=<name> and that ISA's flags; exports its kernels and
// nothing else.
#include "isa/norm/layouts.hpp"
#include "isa/norm/rows.hpp"
#include "isa/norm/table.hpp"

namespace gradstep::GRADSTEP_ISA::norm {

#define LAYOUT(enumerator, type, name, Lanes) Layout<Lanes, type>::table,
extern const NormKernels kTable;
const NormKernels kTable = {{{STORAGE_TYPES(LAYOUT, Spatial)}, {STORAGE_TYPES(LAYOUT, Columns)}},
                            BY_TYPE(normalise_rows),
                            BY_TYPE(row_gradient)};

}  // namespace gradstep::GRADSTEP_ISA::norm
