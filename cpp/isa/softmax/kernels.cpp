// Compiled once per ISA; exports its table and nothing else.
#include "isa/softmax/columns.hpp"
#include "isa/softmax/table.hpp"

namespace gradstep::GRADSTEP_ISA::softmax {

extern const SoftmaxKernels kTable;
const SoftmaxKernels kTable = {BY_TYPE(softmax_rows), BY_TYPE(softmax_max), BY_TYPE(softmax_sums),
                               BY_TYPE(softmax_finish)};

}  // namespace gradstep::GRADSTEP_ISA::softmax
