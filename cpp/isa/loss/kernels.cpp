// Compiled once per ISA; exports its table and nothing else.
#include "isa/loss/squared_error.hpp"
#include "isa/loss/table.hpp"

namespace gradstep::GRADSTEP_ISA::loss {

extern const LossKernels kTable;
const LossKernels kTable = {total, BY_TYPE(squared_error)};

}  // namespace gradstep::GRADSTEP_ISA::loss
