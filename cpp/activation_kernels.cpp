// Compiled once per ISA; exports its table of activations and losses and nothing else.
#include "activation_kernels.hpp"

#include "activation.hpp"
#include "channels.hpp"
#include "softmax_columns.hpp"

namespace gradstep::GRADSTEP_ISA {

template <class T, template <class> class F>
static void forward(double parameter, int64_t n, const void* x, void* y, bool past_cache) {
  const F<T> f(parameter);
  fill(
      static_cast<T*>(y), n, past_cache,
      [&](auto v) __attribute__((always_inline)) { return f.forward(v); },
      static_cast<const T*>(x));
  if (past_cache) stream_fence();
}

template <class T, template <class> class F>
static void backward(double parameter, int64_t n, const void* dy, const void* saved, void* dx,
                     bool past_cache) {
  const F<T> f(parameter);
  fill(
      static_cast<T*>(dx), n, past_cache,
      [&](auto g, auto s) __attribute__((always_inline)) { return f.backward(g, s); },
      static_cast<const T*>(dy), static_cast<const T*>(saved));
  if (past_cache) stream_fence();
}

#define ROW(F, name) \
  {name, {forward<float, F>, forward<double, F>}, {backward<float, F>, backward<double, F>}},
static constexpr Activation kActivations[] = {ACTIVATIONS(ROW)};

#define BOTH(function) {function<float>, function<double>}
extern const ActivationKernels kActivation;
const ActivationKernels kActivation = {kActivations,
                                       sizeof kActivations / sizeof *kActivations,
                                       BOTH(softmax_rows),
                                       BOTH(softmax_max),
                                       BOTH(softmax_sums),
                                       BOTH(softmax_finish),
                                       total,
                                       BOTH(mse),
                                       BOTH(prelu),
                                       BOTH(prelu_backward),
                                       BOTH(maxout),
                                       BOTH(maxout_backward)};

}  // namespace gradstep::GRADSTEP_ISA
