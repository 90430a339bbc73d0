#include "engine/activation/elementwise.hpp"

#include "engine/cache_policy.hpp"
#include "engine/dispatch.hpp"
#include "engine/halves.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

static const ActivationKernels& kernels() { return *active_table().activation; }

void run_activation(int index, DType type, double parameter, int64_t n, const void* x, void* y) {
  const auto forward = kernels().activations[index].forward[value_type(type)];
  const bool past = past_cache(n * bytes_of(type), y, {x}), directly = past && !is_half(type);
  share_out(n, 1, 1, [&](int64_t begin, int64_t end) {
    in_pieces<1>(type, begin, end, {x}, y, past,
                 [&](int64_t first, int64_t last, const auto& from, void* to) {
                   forward(parameter, last - first, from[0], to, directly);
                 });
  });
}

void run_activation_backward(int index, DType type, double parameter, int64_t n, const void* dy,
                             const void* saved, void* dx) {
  const auto backward = kernels().activations[index].backward[value_type(type)];
  const bool past = past_cache(n * bytes_of(type), dx, {dy, saved});
  const bool directly = past && !is_half(type);
  share_out(n, 1, 1, [&](int64_t begin, int64_t end) {
    in_pieces<2>(type, begin, end, {dy, saved}, dx, past,
                 [&](int64_t first, int64_t last, const auto& from, void* to) {
                   backward(parameter, last - first, from[0], from[1], to, directly);
                 });
  });
}

}  // namespace gradstep
