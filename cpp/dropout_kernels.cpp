// Compiled once per ISA with -DGRADSTEP_ISA=<name> and that ISA's flags; exports its kernels and
// nothing else.
#include "dropout_kernels.hpp"

#include "dropout.hpp"

namespace gradstep::GRADSTEP_ISA {

extern const DropoutKernels kDropout;
const DropoutKernels kDropout = {{apply_range<float, Scale>, apply_range<double, Scale>},
                                 {apply_range<float, Alpha>, apply_range<double, Alpha>},
                                 keep_bytes,
                                 keep_bits,
                                 {scale_by_bytes<float>, scale_by_bytes<double>},
                                 {scale_all<float>, scale_all<double>},
                                 {copy_past_cache<float>, copy_past_cache<double>},
                                 fence,
                                 philox_words};

}  // namespace gradstep::GRADSTEP_ISA
