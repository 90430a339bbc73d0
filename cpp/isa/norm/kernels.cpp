// Compiled once per ISA with -DGRADSTEP_ISA=<name> and that ISA's flags; exports its kernels and
// nothing else.
#include "isa/norm/layouts.hpp"
#include "isa/norm/rows.hpp"
#include "isa/norm/table.hpp"

namespace gradstep::GRADSTEP_ISA::norm {

extern const NormKernels kTable;
const NormKernels kTable = {{{Layout<Spatial, float>::table, Layout<Spatial, double>::table},
                             {Layout<Columns, float>::table, Layout<Columns, double>::table}},
                            {Spatial::moments_as<float, false>, Spatial::moments_as<double, false>},
                            {scale_rows<float>, scale_rows<double>},
                            {row_gradient<float>, row_gradient<double>}};

}  // namespace gradstep::GRADSTEP_ISA::norm
