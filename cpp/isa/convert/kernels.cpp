// Compiled once per ISA; exports its table and nothing else.
#include "isa/convert/table.hpp"
#include "isa/storage.hpp"

namespace gradstep::GRADSTEP_ISA::convert {

template <class S>
static void widen(int64_t n, const void* x, float* y) {
  storage::load_all<S>(static_cast<const uint16_t*>(x), n, y);
}

template <class S>
static void narrow(int64_t n, const float* x, void* y, bool past_cache) {
  storage::store_all<S>(x, n, static_cast<uint16_t*>(y), past_cache);
}

static void fence() { stream_fence(); }

extern const ConvertKernels kTable;
const ConvertKernels kTable = {{widen<storage::Bfloat16>, widen<storage::Float16>},
                               {narrow<storage::Bfloat16>, narrow<storage::Float16>},
                               fence};
static_assert(kBfloat16 == kDTypes && kFloat16 == kDTypes + 1 && kHalfTypes == 2);

}  // namespace gradstep::GRADSTEP_ISA::convert
