#include "engine/activation/elementwise.hpp"

#include "engine/cache_policy.hpp"
#include "engine/dispatch.hpp"
#include "engine/dtype.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

static const ActivationKernels& kernels() { return *active_table().activation; }

void run_activation(int index, DType type, double parameter, int64_t n, const void* x, void* y) {
  const auto forward = kernels().activations[index].forward[type];
  const bool past = past_cache(n * bytes_of(type), y, {x});
  share_out(n, 1, 1, [&](int64_t begin, int64_t end) {
    forward(parameter, end - begin, at(x, type, begin), at(y, type, begin), past);
  });
}

void run_activation_backward(int index, DType type, double parameter, int64_t n, const void* dy,
                             const void* saved, void* dx) {
  const auto backward = kernels().activations[index].backward[type];
  const bool past = past_cache(n * bytes_of(type), dx, {dy, saved});
  share_out(n, 1, 1, [&](int64_t begin, int64_t end) {
    backward(parameter, end - begin, at(dy, type, begin), at(saved, type, begin),
             at(dx, type, begin), past);
  });
}

}  // namespace gradstep
