// Compiled once per ISA; exports its table and nothing else.
#include "isa/convert/table.hpp"
#include "isa/storage.hpp"

namespace gradstep::GRADSTEP_ISA::convert {

// A run at a time, the one after the next asked for meanwhile: between two calls a CPU that sees
// other loops forgets where this one was.
template <class S>
static void widen(int64_t n, const void* x, float* y) {
  constexpr int64_t kRun = 512, kLine = 32;
  const auto* from = static_cast<const uint16_t*>(x);
  for (int64_t i = 0; i < n; i += kRun) {
    const int64_t count = n - i < kRun ? n - i : kRun;
    for (int64_t line = 0; line < count; line += kLine) prefetch(from, i + 2 * kRun + line);
    storage::load_all<S>(from + i, count, y + i);
  }
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
