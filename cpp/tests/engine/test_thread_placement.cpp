// Where the pool's workers run, and when parked ones are woken: asserted through CPU numbers and
// thread ids, never through times.
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "engine/thread_pool.hpp"
#include "pool_runs.hpp"
#include "tests/check.hpp"

namespace {

using std::this_thread::sleep_for;
using namespace std::chrono_literals;

#if defined(__linux__)
gradstep::CpuSet affinity() {
  gradstep::CpuSet cpus;
  CHECK_EQUAL(sched_getaffinity(0, sizeof cpus.bits, reinterpret_cast<cpu_set_t*>(cpus.bits)), 0);
  return cpus;
}

void set_affinity(const gradstep::CpuSet& cpus) {
  CHECK_EQUAL(sched_setaffinity(0, sizeof cpus.bits, reinterpret_cast<const cpu_set_t*>(cpus.bits)),
              0);
}

std::vector<int> numbers_of(const gradstep::CpuSet& cpus) {
  std::vector<int> numbers;
  for (int cpu = 0; cpu < 64 * 128; ++cpu)
    if (cpus.has(cpu)) numbers.push_back(cpu);
  return numbers;
}

gradstep::CpuSet only(int cpu) {
  gradstep::CpuSet one;
  one.bits[cpu / 64] = uint64_t{1} << (cpu % 64);
  return one;
}

// Moves this thread to a CPU and lets it run anywhere again.
void move_to(int cpu) {
  const gradstep::CpuSet all = affinity();
  set_affinity(only(cpu));
  set_affinity(all);
}

struct Places {
  int caller_cpu = -1, worker_cpu = -1;
  gradstep::CpuSet worker_mask;
};

// Where the two threads of a run are while both work.
Places places_of_two_threads() {
  Places places;
  run_on_all_threads(2, [&](size_t i) {
    (i ? places.worker_cpu : places.caller_cpu) = sched_getcpu();
    if (i) places.worker_mask = affinity();
  });
  return places;
}

// Emulators report CPUs of their own invention.
bool can_be_placed() {
  const std::vector<int> cpus = numbers_of(affinity());
  if (cpus.size() < 2) return false;
  for (const int cpu : {cpus[1], cpus[0]}) {
    move_to(cpu);
    if (sched_getcpu() != cpu) return false;
  }
  return true;
}

TEST(a_worker_never_shares_its_callers_cpu) {
  if (!can_be_placed()) return;
  pool().set_threads(2);
  const std::vector<int> cpus = numbers_of(affinity());
  int shared = 0;
  for (int repeat = 0; repeat < 200; ++repeat) {
    move_to(cpus[static_cast<size_t>(repeat / 4) % cpus.size()]);
    if (repeat % 2) sleep_for(1ms);  // the worker is parked now
    const Places places = places_of_two_threads();
    shared += places.caller_cpu == places.worker_cpu;
  }
  CHECK(shared <= 4);  // the system may move the caller while it runs
}

TEST(workers_may_run_wherever_their_caller_may_but_where_it_is) {
  if (!can_be_placed()) return;
  pool().set_threads(2);
  const gradstep::CpuSet all = affinity();
  const std::vector<int> cpus = numbers_of(all);
  int as_expected = 0;
  for (int repeat = 0; repeat < 20; ++repeat) {
    move_to(cpus[static_cast<size_t>(repeat) % cpus.size()]);
    const Places places = places_of_two_threads();
    gradstep::CpuSet others = all;
    others.remove(places.caller_cpu);
    as_expected += places.worker_mask == others;
  }
  CHECK(as_expected >= 18);
}

TEST(workers_follow_a_mask_that_changes_from_outside) {
  if (!can_be_placed()) return;
  pool().set_threads(2);
  const gradstep::CpuSet all = affinity();
  const std::vector<int> cpus = numbers_of(all);
  places_of_two_threads();
  set_affinity(only(cpus[1]));
  sleep_for(150ms);  // it is looked at now and then
  CHECK(places_of_two_threads().worker_mask == only(cpus[1]));
  set_affinity(all);
  sleep_for(150ms);
  const Places places = places_of_two_threads();
  CHECK(places.worker_mask.count() == all.count() - 1);
}

TEST(callers_on_different_cpus_each_have_the_worker_elsewhere) {
  if (!can_be_placed()) return;
  pool().set_threads(2);
  const std::vector<int> cpus = numbers_of(affinity());
  std::atomic<int> turn{0}, shared{0};
  const auto call = [&](int self) {
    move_to(cpus[static_cast<size_t>(self)]);
    for (int repeat = 0; repeat < 50; ++repeat) {
      while (turn % 2 != self) sleep_for(100us);
      const Places places = places_of_two_threads();
      shared += places.caller_cpu == places.worker_cpu;
      ++turn;
    }
  };
  std::thread other([&] { call(1); });
  call(0);
  other.join();
  CHECK(shared <= 4);
}

#if !defined(THREAD_SANITIZER)  // no threads after a fork there
TEST(workers_of_a_forked_child_are_placed_too) {
  if (!can_be_placed()) return;
  pool().set_threads(2);
  places_of_two_threads();
  CHECK(succeeds_in_forked_child([] {
    int shared = 0;
    for (int repeat = 0; repeat < 20; ++repeat) {
      const Places places = places_of_two_threads();
      shared += places.caller_cpu == places.worker_cpu;
    }
    return shared <= 1;
  }));
}
#endif

TEST(a_caller_with_one_cpu_works_alone_where_workers_are_not_asked_for) {
  if (!can_be_placed()) return;
  pool().set_threads(2);
  const gradstep::CpuSet all = affinity();
  set_affinity(only(numbers_of(all)[0]));
  sleep_for(150ms);
  std::atomic<int> elsewhere{0};
  const pthread_t self = pthread_self();
  for (int repeat = 0; repeat < 20; ++repeat)
    pool().run(
        100, [&](int64_t, int64_t) { elsewhere += !pthread_equal(pthread_self(), self); },
        gradstep::Wake::kIfWorth);
  set_affinity(all);
  CHECK_EQUAL(elsewhere.load(), 0);
}
#endif

// The number of threads that took part in runs of tasks that take their thread so long, after a
// pause in which workers park.
int threads_of_runs(int64_t tasks, std::chrono::microseconds task, bool coarse = true) {
  std::set<pthread_t> seen;
  std::mutex mutex;
  for (int repeat = 0; repeat < 5; ++repeat) {
    sleep_for(3ms);
    pool().run(
        tasks,
        [&](int64_t begin, int64_t end) {
          const auto stop = std::chrono::steady_clock::now() + (end - begin) * task;
          while (std::chrono::steady_clock::now() < stop) {
          }
          const std::lock_guard<std::mutex> guard(mutex);
          seen.insert(pthread_self());
        },
        gradstep::Wake::kIfWorth, coarse);
  }
  return static_cast<int>(seen.size());
}

TEST(a_parked_worker_is_woken_where_the_work_left_is_worth_it) {
  pool().set_threads(2);
  CHECK_EQUAL(threads_of_runs(16, 1us), 1);
  CHECK_EQUAL(threads_of_runs(16, 2ms), 2);
  CHECK_EQUAL(threads_of_runs(2, 5ms, false), 1);
  CHECK_EQUAL(threads_of_runs(2, 5ms, true), 2);
}

TEST(a_worker_stays_awake_where_short_runs_follow_each_other) {
  pool().set_threads(2);
  sleep_for(3ms);
  std::atomic<bool> helped{false};
  const pthread_t self = pthread_self();
  const auto deadline = std::chrono::steady_clock::now() + 10s;
  while (!helped && std::chrono::steady_clock::now() < deadline)
    pool().run(
        64,
        [&](int64_t, int64_t) {
          if (!pthread_equal(pthread_self(), self)) helped = true;
        },
        gradstep::Wake::kIfWorth);
  CHECK(helped);
}

TEST(many_parked_workers_wake_each_other) {
  for (const int threads : {3, 4, 8, 13}) {
    pool().set_threads(threads);
    for (int repeat = 0; repeat < 5; ++repeat) {
      sleep_for(3ms);
      CHECK(pool_works_with_all_its_threads());
    }
  }
  pool().set_threads(2);
}

}  // namespace
