// Runs of the pool that tell which thread did what, and forked children, for the tests of its
// threads.
#pragma once
#include <pthread.h>
#include <sched.h>
#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <vector>

#include "engine/thread_pool.hpp"

#if defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZER 1
#endif
#endif

#if !defined(_WIN32) && !defined(THREAD_SANITIZER)  // which has no threads after a fork
#define CAN_FORK 1
#endif

using gradstep::ThreadPool;

inline ThreadPool& pool() { return ThreadPool::instance(); }

// True if every task ran exactly once and no range was empty or out of bounds.
inline bool runs_each_task_once(int64_t tasks) {
  std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
  std::atomic<bool> bad_range{false};
  pool().run(tasks, [&](int64_t begin, int64_t end) {
    if (begin < 0 || begin >= end || end > tasks) {
      bad_range = true;
      return;
    }
    for (int64_t i = begin; i < end; ++i) ++runs[static_cast<size_t>(i)];
  });
  for (const auto& count : runs) {
    if (count != 1) return false;
  }
  return !bad_range;
}

// Calls body(i) for i in [0, threads), each on a thread of its own: no task goes on before all have
// begun.
template <class Body>
void run_on_all_threads(int threads, Body body) {
  std::atomic<int> begun{0};
  pool().run(threads, [&](int64_t begin, int64_t end) {
    for (; begin < end; ++begin) {
      ++begun;
      while (begun < threads) sched_yield();
      body(static_cast<size_t>(begin));
    }
  });
}

// The thread that ran each of `threads` such tasks.
inline std::vector<pthread_t> thread_of_each_share(int threads) {
  std::vector<pthread_t> ran_by(static_cast<size_t>(threads));
  run_on_all_threads(threads, [&](size_t i) { ran_by[i] = pthread_self(); });
  return ran_by;
}

#if defined(CAN_FORK)
// Forks; true if `child` returns true within a minute. The child leaves through exit().
template <class Child>
bool succeeds_in_forked_child(Child child) {
  const pid_t id = fork();
  if (id == 0) {
    alarm(60);
    std::exit(child() ? 0 : 1);
  }
  int status = -1;
  return waitpid(id, &status, 0) == id && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
#endif

inline bool pool_works_with_all_its_threads() {
  const auto ran_by = thread_of_each_share(pool().threads());
  return std::set<pthread_t>(ran_by.begin(), ran_by.end()).size() == ran_by.size() &&
         runs_each_task_once(1000);
}
