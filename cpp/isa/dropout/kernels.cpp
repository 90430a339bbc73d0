// Compiled once per ISA with -DGRADSTEP_ISA=<name> and that ISA's flags; exports its kernels and
// nothing else.
#include "isa/dropout/masked.hpp"

namespace gradstep::GRADSTEP_ISA::dropout {

extern const DropoutKernels kTable;
const DropoutKernels kTable = {BY_TYPE(apply_range, Scale),
                               BY_TYPE(apply_range, Alpha),
                               keep_bytes,
                               keep_bits,
                               BY_TYPE(scale_by_bytes),
                               BY_TYPE(scale_all),
                               BY_TYPE(copy_past_cache),
                               fence,
                               philox_words};

}  // namespace gradstep::GRADSTEP_ISA::dropout
