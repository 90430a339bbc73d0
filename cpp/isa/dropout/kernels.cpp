// Compiled once per ISA with -DGRADSTEP_ISA=<name> and that ISA's flags; exports its kernels and
// nothing else.
#include "isa/dropout/masked.hpp"

namespace gradstep::GRADSTEP_ISA::dropout {

extern const DropoutKernels kTable;
const DropoutKernels kTable = {{apply_range<float, Scale>, apply_range<double, Scale>},
                               {apply_range<float, Alpha>, apply_range<double, Alpha>},
                               keep_bytes,
                               keep_bits,
                               {scale_by_bytes<float>, scale_by_bytes<double>},
                               {scale_all<float>, scale_all<double>},
                               {copy_past_cache<float>, copy_past_cache<double>},
                               fence,
                               philox_words};

}  // namespace gradstep::GRADSTEP_ISA::dropout
