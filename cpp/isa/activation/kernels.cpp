// Compiled once per ISA; exports its table and nothing else.
#include "isa/activation/activations.hpp"
#include "isa/activation/biased.hpp"
#include "isa/activation/maxout.hpp"
#include "isa/activation/prelu.hpp"
#include "isa/activation/table.hpp"

namespace gradstep::GRADSTEP_ISA::activation {

template <class T, template <class> class F>
static void forward(double parameter, int64_t n, const void* x, void* y, bool past_cache) {
  const F<T> f(parameter);
  fill_ahead(
      static_cast<T*>(y), n, past_cache,
      [&](auto v) __attribute__((always_inline)) { return f.forward(v); },
      static_cast<const T*>(x));
  if (past_cache) stream_fence();
}

template <class T, template <class> class F>
static void backward(double parameter, int64_t n, const void* dy, const void* saved, void* dx,
                     bool past_cache) {
  const F<T> f(parameter);
  fill_ahead(
      static_cast<T*>(dx), n, past_cache,
      [&](auto g, auto s) __attribute__((always_inline)) { return f.backward(g, s); },
      static_cast<const T*>(dy), static_cast<const T*>(saved));
  if (past_cache) stream_fence();
}

#define ROW(F, name)            \
  {name,                        \
   BY_TYPE(forward, F),         \
   BY_TYPE(backward, F),        \
   BY_TYPE(biased, F),          \
   BY_TYPE(biased_backward, F), \
   F<float>::kReadsX,           \
   F<float>::kStopsAtZero},
static constexpr Activation kActivations[] = {ACTIVATIONS(ROW)};

extern const ActivationKernels kTable;
const ActivationKernels kTable = {kActivations,    sizeof kActivations / sizeof *kActivations,
                                  BY_TYPE(prelu),  BY_TYPE(prelu_backward),
                                  BY_TYPE(maxout), BY_TYPE(maxout_backward)};

}  // namespace gradstep::GRADSTEP_ISA::activation
