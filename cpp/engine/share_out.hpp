// How much work is worth a thread, and how an array is cut for them.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

#include "engine/thread_pool.hpp"

namespace gradstep {

// Chosen by measurement: `python -m bench.sweeps` varies them in a running process. No result
// depends on them.
struct Tuning {
  std::atomic<int64_t> task{8192};    // elements of one task: a few microseconds of one core
  std::atomic<int64_t> serial{8192};  // up to so many the caller works alone and keeps the GIL
  std::atomic<int64_t> spin{100};     // microseconds that an idle worker stays awake
};
inline constinit Tuning tuning;

// body(begin, end) over [0, count), in ranges that begin at multiples of `multiple` and hold about
// one task's elements, `width` for each of count.
template <class Body>
void share_out(int64_t count, int64_t width, int64_t multiple, const Body& body) {
  if (count * width <= tuning.serial) return body(int64_t{0}, count);
  const int64_t wanted = std::max<int64_t>(tuning.task / std::max<int64_t>(width, 1), 1);
  const int64_t piece = (wanted + multiple - 1) / multiple * multiple;
  ThreadPool::instance().run((count + piece - 1) / piece, [&](int64_t first, int64_t last) {
    body(first * piece, std::min(last * piece, count));
  });
}

}  // namespace gradstep
