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
#include <utility>
#include <vector>

#include "engine/thread_pool.hpp"
#include "pool_runs.hpp"
#include "tests/check.hpp"

namespace {

using std::this_thread::sleep_for;
using namespace std::chrono_literals;

// Other processes on these CPUs may delay any thread at any point, so that a worker is not parked
// yet, or not there yet, when a run begins: what holds on an idle machine is seen in one of a few
// attempts, and what is broken is seen in none.
template <class Attempt>
bool holds_once(Attempt attempt) {
  for (int i = 0; i < 20; ++i)
    if (attempt()) return true;
  return false;
}

// Of ten runs of tasks that take their thread so long, each after a pause in which workers park,
// those in which two threads took part.
int runs_of_two(int64_t tasks, std::chrono::microseconds task, bool coarse = true) {
  int shared = 0;
  for (int repeat = 0; repeat < 10; ++repeat) {
    std::set<pthread_t> seen;
    std::mutex mutex;
    sleep_for(10ms);
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
    shared += seen.size() == 2;
  }
  return shared;
}

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
  // Without placement it is missed a hundred times in each attempt.
  CHECK(holds_once([&] {
    int shared = 0;
    for (int repeat = 0; repeat < 200; ++repeat) {
      move_to(cpus[static_cast<size_t>(repeat / 4) % cpus.size()]);
      if (repeat % 2) sleep_for(1ms);  // the worker is parked now
      const Places places = places_of_two_threads();
      shared += places.caller_cpu == places.worker_cpu;
    }
    return shared <= 4;
  }));
}

TEST(workers_may_run_wherever_their_caller_may_but_where_it_is) {
  if (!can_be_placed()) return;
  pool().set_threads(2);
  const gradstep::CpuSet all = affinity();
  const std::vector<int> cpus = numbers_of(all);
  CHECK(holds_once([&] {
    int as_expected = 0;
    for (int repeat = 0; repeat < 20; ++repeat) {
      move_to(cpus[static_cast<size_t>(repeat) % cpus.size()]);
      const Places places = places_of_two_threads();
      gradstep::CpuSet others = all;
      others.remove(places.caller_cpu);
      as_expected += places.worker_mask == others;
    }
    return as_expected >= 18;
  }));
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
  CHECK(holds_once([&] {
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
    return shared <= 4;
  }));
}

#if defined(CAN_FORK)
TEST(workers_of_a_forked_child_are_placed_too) {
  if (!can_be_placed()) return;
  pool().set_threads(2);
  places_of_two_threads();
  CHECK(succeeds_in_forked_child([] {
    return holds_once([] {
      int shared = 0;
      for (int repeat = 0; repeat < 20; ++repeat) {
        const Places places = places_of_two_threads();
        shared += places.caller_cpu == places.worker_cpu;
      }
      return shared <= 1;
    });
  }));
}
#endif

TEST(a_caller_with_one_cpu_works_alone_where_workers_are_not_asked_for) {
  if (!can_be_placed()) return;
  pool().set_threads(2);
  const gradstep::CpuSet all = affinity();
  set_affinity(only(numbers_of(all)[0]));
  sleep_for(150ms);
  const int shared = runs_of_two(16, 2ms);
  set_affinity(all);
  CHECK_EQUAL(shared, 0);
}
#endif

TEST(a_parked_worker_is_woken_where_the_work_left_is_worth_it) {
  pool().set_threads(2);
  CHECK(holds_once([] { return runs_of_two(16, 1us) <= 4; }));
  CHECK(holds_once([] { return runs_of_two(16, 2ms) >= 6; }));
  CHECK(holds_once([] { return runs_of_two(2, 5ms, false) <= 4; }));
  CHECK(holds_once([] { return runs_of_two(2, 5ms, true) >= 6; }));
}

TEST(a_run_that_wakes_nobody_does_the_rest_at_once) {
  pool().set_threads(2);
  CHECK(holds_once([] {
    sleep_for(3ms);  // the worker is parked
    std::mutex lock;
    std::vector<std::pair<int64_t, int64_t>> ranges;
    pool().run(
        16,
        [&](int64_t begin, int64_t end) {
          const std::lock_guard guard(lock);
          ranges.emplace_back(begin, end);
        },
        gradstep::Wake::kIfWorth);
    return ranges == std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {1, 2}, {2, 16}};
  }));
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

// Threads that are lent, by a runtime that starts new ones for each region.
thread_local int lent_number = 0;
std::atomic<int> lent_regions{0}, lent_threads{0}, awake{0};

void lent_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  ++lent_regions;
  lent_threads = static_cast<int>(threads);
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; ++i)
    others.emplace_back([=] {
      lent_number = static_cast<int>(i);
      body(data);
    });
  body(data);
  for (auto& other : others) other.join();
}

const gradstep::OpenMP kLent = {lent_parallel, [] { return lent_number; }, [] { return 4; }};

int count_awake() noexcept { return awake; }

// Whether a run of many tasks, each done once, took lent threads, which workers that are still
// awake prevent.
bool takes_lent_threads(gradstep::Wake wake = gradstep::Wake::kIfWorth) {
  sleep_for(3ms);  // workers are parked
  const int before = lent_regions;
  std::atomic<int> done{0};
  pool().run(100, [&](int64_t begin, int64_t end) { done += static_cast<int>(end - begin); }, wake);
  CHECK_EQUAL(done.load(), 100);
  return lent_regions != before;
}

TEST(threads_that_are_lent_and_awake_are_taken_where_their_user_said_so) {
  pool().set_threads(3);
  pool().lend(&kLent, count_awake);
  awake = 3;
  CHECK(!takes_lent_threads());
  CHECK(!ThreadPool::use_lent(true));
  CHECK(holds_once([] { return takes_lent_threads(); }));
  CHECK_EQUAL(lent_threads.load(), 3);  // no more than the pool may use
  awake = 1;
  CHECK(holds_once([] { return takes_lent_threads(); }));
  CHECK_EQUAL(lent_threads.load(), 2);
  awake = 0;
  CHECK(!takes_lent_threads());
  awake = 3;
  CHECK(!takes_lent_threads(gradstep::Wake::kAll));
  std::thread([] { CHECK(!takes_lent_threads()); }).join();  // who did not say so
  CHECK(ThreadPool::use_lent(false));
  CHECK(!takes_lent_threads());
  pool().set_threads(2);
}

#if defined(CAN_FORK)
TEST(a_forked_child_has_no_lent_threads) {
  pool().set_threads(2);
  pool().lend(&kLent, count_awake);
  ThreadPool::use_lent(true);
  awake = 1;
  CHECK(holds_once([] { return takes_lent_threads(); }));
  CHECK(succeeds_in_forked_child([] { return !takes_lent_threads(); }));
  ThreadPool::use_lent(false);
}
#endif

TEST(lent_threads_that_only_we_use_are_left_alone_now_and_then) {
  pool().set_threads(2);
  pool().lend(&kLent, count_awake);
  ThreadPool::use_lent(true);
  awake = 1;
  int refused = 0;
  const auto deadline = std::chrono::steady_clock::now() + 1500ms;
  while (std::chrono::steady_clock::now() < deadline) refused += !takes_lent_threads();
  ThreadPool::use_lent(false);
  CHECK(refused > 0);
}

}  // namespace
