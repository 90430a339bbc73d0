// Compiled once per ISA; exports its table and nothing else.
#include "isa/loss/squared_error.hpp"
#include "isa/loss/table.hpp"

namespace gradstep::GRADSTEP_ISA::loss {

extern const LossKernels kTable;
const LossKernels kTable = {total, {squared_error<float>, squared_error<double>}};

}  // namespace gradstep::GRADSTEP_ISA::loss
