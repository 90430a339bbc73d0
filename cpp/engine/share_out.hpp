// How much work is worth a thread, and how it is cut for them.
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
  std::atomic<int64_t> wake{0};       // microseconds of work that wake a parked one; 0: as measured
  std::atomic<int64_t> cache{1 << 25};  // bytes of results that caches are trusted to keep, at most
};
inline constinit Tuning tuning;

inline bool worth_sharing(int64_t elements) { return elements > tuning.serial; }

// The only way to the threads. body(first, last) over [0, tasks), which are `elements` elements of
// work together: on the calling thread where that is little.
inline void run_tasks(int64_t elements, int64_t tasks, TaskRange body) {
  constexpr int64_t kWakeFor = 32;  // tasks' elements that wake a parked worker without a look
  if (!worth_sharing(elements)) return body(0, tasks);
  ThreadPool::instance().run(tasks, body, Wake::kIfWorth, elements >= kWakeFor * tuning.task);
}

// body(begin, end) over [0, count), in ranges that begin at multiples of `multiple` and hold about
// one task's elements, `width` for each of count.
template <class Body>
void share_out(int64_t count, int64_t width, int64_t multiple, const Body& body) {
  const int64_t wanted = std::max<int64_t>(tuning.task / std::max<int64_t>(width, 1), 1);
  const int64_t piece = (wanted + multiple - 1) / multiple * multiple;
  run_tasks(count * width, (count + piece - 1) / piece, [&](int64_t first, int64_t last) {
    if (first < last) body(first * piece, std::min(last * piece, count));
  });
}

}  // namespace gradstep
