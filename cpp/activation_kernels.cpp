// Compiled once per ISA; exports its table of activations and losses and nothing else.
#include "activation_kernels.hpp"

#include "activation.hpp"
#include "channels.hpp"
#include "softmax_columns.hpp"

namespace gradstep::GRADSTEP_ISA {

// y[i] = value(type, i); past the cache where asked, from the first aligned element on.
template <class T, class Value>
ALWAYS_INLINE void fill(int64_t n, T* y, bool past_cache, const Value& value) {
  typedef typename Native<T>::type V;
  const auto put = [&](auto type, int64_t i)
                       __attribute__((always_inline)) { store(y + i, value(type, i)); };
  if (!past_cache) return sweep<T>(n, put);
  int64_t i = 0;
  for (; i < n && reinterpret_cast<uintptr_t>(y + i) % kBytes; ++i) put(ValueType<T>{}, i);
  for (; i + kLanes<V, T> <= n; i += kLanes<V, T>)
    store_past_cache(y + i, value(ValueType<V>{}, i));
  for (; i < n; ++i) put(ValueType<T>{}, i);
  stream_fence();
}

template <class T, template <class> class F>
static void forward(double parameter, int64_t n, const void* x, void* y, bool past_cache) {
  const F<T> f(parameter);
  const T* from = static_cast<const T*>(x);
  fill(n, static_cast<T*>(y), past_cache, [&](auto type, int64_t i) __attribute__((always_inline)) {
    return f.forward(load<typename decltype(type)::type>(from + i));
  });
}

template <class T, template <class> class F>
static void backward(double parameter, int64_t n, const void* dy, const void* saved, void* dx,
                     bool past_cache) {
  const F<T> f(parameter);
  const T *g = static_cast<const T*>(dy), *s = static_cast<const T*>(saved);
  fill(n, static_cast<T*>(dx), past_cache,
       [&](auto type, int64_t i) __attribute__((always_inline)) {
         typedef typename decltype(type)::type V;
         return f.backward(load<V>(g + i), load<V>(s + i));
       });
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
