// Compiled once per ISA; exports its table and nothing else.
#include "isa/softmax/columns.hpp"
#include "isa/softmax/table.hpp"

namespace gradstep::GRADSTEP_ISA::softmax {

#define BOTH(function) {function<float>, function<double>}
extern const SoftmaxKernels kTable;
const SoftmaxKernels kTable = {BOTH(softmax_rows), BOTH(softmax_max), BOTH(softmax_sums),
                               BOTH(softmax_finish)};

}  // namespace gradstep::GRADSTEP_ISA::softmax
