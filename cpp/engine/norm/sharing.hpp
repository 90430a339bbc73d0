// How normalisation is shared among threads, and which results are stored past the cache.
#pragma once
#include "engine/dispatch.hpp"
#include "engine/dtype.hpp"
#include "engine/thread_pool.hpp"

namespace gradstep {

// Outputs of more bytes than this are stored past the cache, where they are not the input.
inline constexpr int64_t kNormStream = 1 << 24;

inline bool streams(DType type, int64_t elements, const void* out, const void* a, const void* b) {
  return elements * bytes_of(type) > kNormStream && out != a && out != b;
}

inline const NormKernels& norm_kernels() { return *active_table().norm; }

inline void run_tasks(bool serial, int64_t tasks, TaskRange body) {
  if (serial)
    body(0, tasks);
  else
    ThreadPool::instance().run(tasks, body);
}

}  // namespace gradstep
