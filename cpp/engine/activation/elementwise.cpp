#include "engine/activation/elementwise.hpp"

#include "engine/dispatch.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

namespace {

// Bytes of an output that is not expected to stay in a cache: it is written past it.
constexpr int64_t kPastCache = int64_t{8} << 20;
int64_t size_of(DType type) { return type == kFloat32 ? 4 : 8; }

const char* at(const void* p, int64_t bytes) { return static_cast<const char*>(p) + bytes; }
char* at(void* p, int64_t bytes) { return static_cast<char*>(p) + bytes; }

const ActivationKernels& kernels() { return *active_table().activation; }

}  // namespace

void run_activation(int index, DType type, double parameter, int64_t n, const void* x, void* y) {
  const auto forward = kernels().activations[index].forward[type];
  const int64_t size = size_of(type);
  const bool past_cache = x != y && n * size > kPastCache;
  share_out(n, 1, 1, [&](int64_t begin, int64_t end) {
    forward(parameter, end - begin, at(x, begin * size), at(y, begin * size), past_cache);
  });
}

void run_activation_backward(int index, DType type, double parameter, int64_t n, const void* dy,
                             const void* saved, void* dx) {
  const auto backward = kernels().activations[index].backward[type];
  const int64_t size = size_of(type);
  const bool past_cache = dx != dy && dx != saved && n * size > kPastCache;
  share_out(n, 1, 1, [&](int64_t begin, int64_t end) {
    backward(parameter, end - begin, at(dy, begin * size), at(saved, begin * size),
             at(dx, begin * size), past_cache);
  });
}

}  // namespace gradstep
