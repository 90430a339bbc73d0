// The promises of the one thread pool, and of what it reads from its environment: one subject,
// whose tests share helpers (forked children, borrowed teams, counters of tasks), hence the length.
#include <pthread.h>
#include <sched.h>
#if !defined(_WIN32)
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#endif

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/thread_pool.hpp"
#include "pool_runs.hpp"
#include "tests/check.hpp"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

using gradstep::default_threads;
using std::this_thread::sleep_for;
using namespace std::chrono_literals;

// Sets an environment variable, or removes it (nullptr), while this object lives.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    const char* old = std::getenv(name);
    had_ = old != nullptr;
    old_ = had_ ? old : "";
    set(value);
  }
  ~Environment() { set(had_ ? old_.c_str() : nullptr); }
  Environment(const Environment&) = delete;

 private:
  void set(const char* value) {
#if defined(_WIN32)
    _putenv_s(name_, value ? value : "");  // an empty one is none there
#else
    value ? setenv(name_, value, 1) : unsetenv(name_);
#endif
  }

  const char* name_;
  bool had_;
  std::string old_;
};

int threads_for(const char* own, const char* openmp, std::string* error = nullptr) {
  const Environment own_variable("GRADSTEP_NUM_THREADS", own);
  const Environment openmp_variable("OMP_NUM_THREADS", openmp);
  return default_threads(error);
}

#if defined(__linux__) && !defined(THREAD_SANITIZER)  // which has a thread of its own
TEST(no_thread_exists_before_the_first_parallel_run) {
  const auto count = [] {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return std::distance(begin(tasks), end(tasks));
  };
  const auto before = count();
  pool().set_threads(4);
  CHECK(runs_each_task_once(1));
  CHECK_EQUAL(count(), before);
  CHECK(runs_each_task_once(3));
  CHECK_EQUAL(count(), before + 2);
}
#endif

TEST(each_task_runs_exactly_once) {
  for (const int threads : {1, 2, 3, 7, 16}) {
    pool().set_threads(threads);
    for (const int64_t tasks : {0, 1, 2, 3, 7, 64, 1000, 100000}) {
      CHECK(runs_each_task_once(tasks));
    }
  }
}

TEST(huge_task_numbers_do_not_overflow) {
  for (const int threads : {1, 2, 3, 7, 16}) {
    pool().set_threads(threads);
    std::atomic<uint64_t> covered{0};
    pool().run(INT64_MAX, [&](int64_t begin, int64_t end) {
      covered += static_cast<uint64_t>(end) - static_cast<uint64_t>(begin);
    });
    CHECK_EQUAL(covered.load(), static_cast<uint64_t>(INT64_MAX));
  }
}

TEST(what_bodies_wrote_is_visible_after_the_run) {
  std::vector<int64_t> squares(5000);  // not atomic: the thread sanitizer watches
  for (int repeat = 0; repeat < 200; ++repeat) {
    pool().set_threads(1 + repeat % 7);
    const auto tasks = static_cast<int64_t>(squares.size());
    pool().run(tasks, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) squares[static_cast<size_t>(i)] = i * i + repeat;
    });
    int64_t sum = 0;
    for (const int64_t square : squares) sum += square;
    CHECK_EQUAL(sum, (tasks - 1) * tasks * (2 * tasks - 1) / 6 + tasks * repeat);
  }
}

TEST(all_threads_take_part_and_keep_their_share) {
  for (const int threads : {2, 3, 7}) {
    pool().set_threads(threads);
    const auto first = thread_of_each_share(threads);
    sleep_for(2ms);  // the workers are parked now
    const auto second = thread_of_each_share(threads);
    CHECK_EQUAL(std::set<pthread_t>(first.begin(), first.end()).size(), threads);
    CHECK(first == second);
    CHECK(first[0] == pthread_self());
  }
}

TEST(idle_threads_take_over_what_a_slow_one_left) {
  pool().set_threads(2);
  std::atomic<int64_t> done{0}, slow{0};
  pool().run(64, [&](int64_t begin, int64_t end) {
    done += end - begin;
    if (begin != 0) return;
    slow = end;
    while (done < 64) sched_yield();  // never ends unless the other thread takes the rest
  });
  CHECK(slow <= 32 / 8);
}

TEST(threads_that_compete_for_a_task_do_not_both_run_it) {
  pool().set_threads(2);
  int64_t good = 0;
  for (int repeat = 0; repeat < 20000; ++repeat) good += runs_each_task_once(9);
  CHECK_EQUAL(good, 20000);
}

TEST(nested_runs_complete) {
  pool().set_threads(3);
  std::atomic<int64_t> sum{0};
  pool().run(20, [&](int64_t outer, int64_t outer_end) {
    for (; outer < outer_end; ++outer) {
      const auto self = pthread_self();
      pool().run(50, [&](int64_t begin, int64_t end) {
        CHECK(pthread_equal(self, pthread_self()));
        for (int64_t i = begin; i < end; ++i) sum += i;
      });
    }
  });
  CHECK_EQUAL(sum.load(), 20 * 50 * 49 / 2);
}

TEST(concurrent_callers_do_not_disturb_each_other) {
  pool().set_threads(3);
  std::atomic<int> good{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 100; ++repeat) good += runs_each_task_once(100 + repeat);
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK_EQUAL(good.load(), 800);
}

TEST(thread_number_may_change_while_others_run) {
  std::atomic<bool> stop{false};
  std::thread changer([&] {
    for (int n = 0; !stop; n = (n + 1) % 16) {
      pool().set_threads(n + 1);
      sched_yield();
    }
  });
  for (int repeat = 0; repeat < 300; ++repeat) CHECK(runs_each_task_once(200));
  stop = true;
  changer.join();
}

TEST(a_lower_thread_number_holds_at_once) {
  pool().set_threads(7);
  CHECK(pool_works_with_all_its_threads());
  pool().set_threads(2);
  CHECK_EQUAL(pool().threads(), 2);
  std::vector<pthread_t> ran_by(200);
  for (int repeat = 0; repeat < 100; ++repeat) {
    pool().run(200, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ran_by[static_cast<size_t>(i)] = pthread_self();
    });
    CHECK(std::set<pthread_t>(ran_by.begin(), ran_by.end()).size() <= 2);
  }
}

TEST(thread_numbers_out_of_range_are_clamped) {
  pool().set_threads(-3);
  CHECK_EQUAL(pool().threads(), 1);
  pool().set_threads(100000);
  CHECK_EQUAL(pool().threads(), gradstep::kMaxThreads);
  pool().set_threads(2);
}

TEST(parked_workers_wake_up) {
  pool().set_threads(3);
  for (int repeat = 0; repeat < 20; ++repeat) {
    CHECK(pool_works_with_all_its_threads());
    sleep_for(2ms);
  }
}

TEST(a_caller_that_sleeps_is_woken) {
  pool().set_threads(3);
  for (int repeat = 0; repeat < 10; ++repeat) {
    std::atomic<int> done{0};
    run_on_all_threads(3, [&](size_t i) {
      if (i > 0) sleep_for(2ms);
      ++done;
    });
    CHECK_EQUAL(done.load(), 3);
  }
}

#if defined(CAN_FORK)
TEST(a_forked_child_has_a_pool_of_its_own) {
  pool().set_threads(3);
  CHECK(pool_works_with_all_its_threads());
  CHECK(succeeds_in_forked_child(pool_works_with_all_its_threads));  // workers spin
  sleep_for(5ms);
  CHECK(succeeds_in_forked_child(pool_works_with_all_its_threads));  // workers are parked
  CHECK(succeeds_in_forked_child([] {
    return pool().threads() == 3 && pool_works_with_all_its_threads() &&
           succeeds_in_forked_child(pool_works_with_all_its_threads);
  }));
  CHECK(pool_works_with_all_its_threads());
}

TEST(a_child_forked_from_a_busy_pool_is_not_stuck) {
  pool().set_threads(3);
  std::atomic<bool> stop{false};
  std::thread runner([&] {
    while (!stop) {
      pool().run(50, [](int64_t begin, int64_t end) {
        for (volatile int64_t i = 200 * begin; i < 200 * end;) i = i + 1;
      });
    }
  });
  for (int repeat = 0; repeat < 20; ++repeat) {
    CHECK(succeeds_in_forked_child(pool_works_with_all_its_threads));
    sleep_for(std::chrono::microseconds(37 * repeat));
  }
  stop = true;
  runner.join();
  CHECK(pool_works_with_all_its_threads());
}
#endif

#if !defined(_WIN32)
// Left out where the limit has no effect (macOS, emulators) and under sanitizers, whose maps exceed
// any limit.
TEST(fewer_threads_do_when_the_system_refuses_more) {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const int64_t bytes = pages * getpagesize();
  rlimit before{};
  getrlimit(RLIMIT_AS, &before);
  rlimit limit = before;
  limit.rlim_cur = static_cast<rlim_t>(bytes + (80 << 20));  // room for a few stacks
  if (pages == 0 || bytes > int64_t{1} << 40 || setrlimit(RLIMIT_AS, &limit) != 0) return;
  void* large = mmap(nullptr, 1 << 30, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0);
  const bool enforced = large == MAP_FAILED;
  if (!enforced) munmap(large, 1 << 30);
  pool().set_threads(500);
  if (enforced) {
    CHECK(runs_each_task_once(1000));
    CHECK(pool().threads() < 500);
  }
  setrlimit(RLIMIT_AS, &before);
  if (enforced) CHECK(pool_works_with_all_its_threads());
  pool().set_threads(2);
}

TEST(signals_are_left_to_the_callers_threads) {
  pool().set_threads(3);
  std::vector<sigset_t> blocked(3);
  run_on_all_threads(3, [&](size_t i) { pthread_sigmask(SIG_SETMASK, nullptr, &blocked[i]); });
  for (const int sent : {SIGINT, SIGTERM, SIGUSR1, SIGCHLD, SIGALRM}) {
    CHECK_EQUAL(sigismember(&blocked[0], sent), 0);
    CHECK_EQUAL(sigismember(&blocked[1], sent), 1);
    CHECK_EQUAL(sigismember(&blocked[2], sent), 1);
  }
  for (const sigset_t& set : blocked) CHECK_EQUAL(sigismember(&set, SIGSEGV), 0);
}
#endif

#if defined(__SSE__) || defined(__aarch64__)
void flush_to_zero(bool on) {
#if defined(__SSE__)
  const unsigned bits = 0x8040;  // FTZ and DAZ of MXCSR
  _mm_setcsr(on ? _mm_getcsr() | bits : _mm_getcsr() & ~bits);
#else
  uint64_t state;
  asm volatile("mrs %0, fpcr" : "=r"(state));
  const uint64_t bit = uint64_t{1} << 24;  // FZ of FPCR
  asm volatile("msr fpcr, %0" ::"r"(on ? state | bit : state & ~bit));
#endif
}

float half_of_the_smallest_normal() {
  const volatile float smallest_normal = 0x1p-126F;
  return smallest_normal * 0.5F;
}

TEST(workers_compute_in_the_callers_floating_point_state) {
  pool().set_threads(3);
  for (const bool flush : {false, true, false, true, false}) {
    flush_to_zero(flush);
    std::vector<float> results(3);
    run_on_all_threads(3, [&](size_t i) { results[i] = half_of_the_smallest_normal(); });
    const float own = half_of_the_smallest_normal();
    flush_to_zero(false);
    for (const float result : results) CHECK_EQUAL(result == 0, flush);
    CHECK_EQUAL(own == 0, flush);
  }
}
#endif

TEST(environment_sets_the_thread_number) {
  CHECK_EQUAL(threads_for("3", "5"), 3);
  CHECK_EQUAL(threads_for(" 1024 ", nullptr), 1024);
  CHECK_EQUAL(threads_for(nullptr, "5"), 5);
  CHECK_EQUAL(threads_for("", "5"), 5);
  CHECK_EQUAL(threads_for(nullptr, " 4 , 2"), 4);
  CHECK_EQUAL(threads_for(nullptr, "4,2"), 4);
  CHECK_EQUAL(threads_for(nullptr, "4000"), gradstep::kMaxThreads);
}

TEST(bad_openmp_thread_numbers_are_ignored) {
  std::string error;
  const int automatic = threads_for(nullptr, nullptr, &error);
  CHECK(automatic >= 1);
  for (const char* bad : {"", "0", "-2", "four", "4x", ",2", "99999999999999999999", "2.5"}) {
    CHECK_EQUAL(threads_for(nullptr, bad, &error), automatic);
  }
  CHECK_EQUAL(error, "");
}

TEST(bad_own_thread_numbers_are_reported) {
  for (const std::string bad : {"0", "-2", "1025", "four", "4x", "4,2", "2.5", " "}) {
    std::string error;
    CHECK_EQUAL(threads_for(bad.c_str(), "5", &error), 5);
    CHECK_EQUAL(error,
                "GRADSTEP_NUM_THREADS: '" + bad + "', expected a whole number from 1 to 1024");
    CHECK_EQUAL(threads_for(bad.c_str(), "5"), 5);
  }
  std::string error;
  threads_for("2", nullptr, &error);
  threads_for("", nullptr, &error);
  CHECK_EQUAL(error, "");
}

#if defined(__linux__)
TEST(affinity_limits_the_thread_number) {
  cpu_set_t before, one;
  CHECK_EQUAL(sched_getaffinity(0, sizeof before, &before), 0);
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  CHECK_EQUAL(sched_setaffinity(0, sizeof one, &one), 0);
  CHECK_EQUAL(threads_for(nullptr, nullptr), 1);
  sched_setaffinity(0, sizeof before, &before);
}
#endif

// A directory with control groups, removed at the end of its life.
class ControlGroups {
 public:
  ControlGroups() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    root_ = std::filesystem::temp_directory_path() / ("gradstep-" + std::to_string(now));
    std::filesystem::create_directory(root_);
  }
  ~ControlGroups() { std::filesystem::remove_all(root_); }
  ControlGroups(const ControlGroups&) = delete;

  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text << "\n";
  }

  int cpus(const std::string& membership) const {
    write("membership", membership);
    return gradstep::cgroup_cpus((root_ / "membership").string(), root_.string());
  }

 private:
  std::filesystem::path root_;
};

TEST(cpu_quota_of_version_2_is_rounded_up) {
  const ControlGroups groups;
  CHECK_EQUAL(groups.cpus("0::/"), gradstep::kMaxThreads);
  groups.write("a/b/cpu.max", "max 100000");
  CHECK_EQUAL(groups.cpus("0::/a/b"), gradstep::kMaxThreads);
  groups.write("a/b/cpu.max", "400001 100000");
  CHECK_EQUAL(groups.cpus("0::/a/b"), 5);
  groups.write("a/b/cpu.max", "400000 100000");
  CHECK_EQUAL(groups.cpus("0::/a/b"), 4);
  groups.write("a/cpu.max", "250000 100000");
  CHECK_EQUAL(groups.cpus("0::/a/b"), 3);
  CHECK_EQUAL(groups.cpus("0::/elsewhere"), gradstep::kMaxThreads);
  groups.write("cpu.max", "50000 100000");
  CHECK_EQUAL(groups.cpus("0::/a/b"), 1);
  CHECK_EQUAL(groups.cpus("0::/of/the/host"), 1);
}

TEST(cpu_quota_of_version_1_is_rounded_up) {
  const ControlGroups groups;
  groups.write("cpu/job/cpu.cfs_period_us", "100000");
  groups.write("cpu/job/cpu.cfs_quota_us", "-1");
  CHECK_EQUAL(groups.cpus("4:cpu,cpuacct:/job"), gradstep::kMaxThreads);
  groups.write("cpu/job/cpu.cfs_quota_us", "150000");
  CHECK_EQUAL(groups.cpus("9:memory:/x\n4:cpu,cpuacct:/job\n0::/"), 2);
  CHECK_EQUAL(groups.cpus("1:cpu:/job/inner"), 2);
  CHECK_EQUAL(groups.cpus("4:cpuset:/job\nnonsense\n"), gradstep::kMaxThreads);
}

// A runtime with new threads for each region, in place of OpenMP.
thread_local int team_number = 0;
int team_size = 3;
std::atomic<int> regions{0};

void parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  ++regions;
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; ++i) {
    others.emplace_back([=] {
      team_number = static_cast<int>(i);
      body(data);
    });
  }
  body(data);
  for (auto& other : others) other.join();
}

const gradstep::OpenMP kThreads = {parallel, [] { return team_number; }, [] { return team_size; }};

// Lends a runtime to the pool while this object lives.
struct Lent {
  explicit Lent(int size, const gradstep::OpenMP& runtime = kThreads) {
    team_size = size;
    pool().borrow(&runtime);
    ThreadPool::use_team(true);
  }
  ~Lent() {
    ThreadPool::use_team(false);
    pool().borrow(nullptr);
  }
};

TEST(a_borrowed_team_runs_each_task_once_and_no_worker_does) {
  pool().set_threads(4);
  const Lent lent(3);
  CHECK(pool().borrows());
  const int before = regions;
  CHECK(runs_each_task_once(1000));
  CHECK(runs_each_task_once(2));
  CHECK_EQUAL(regions - before, 2);
  CHECK(runs_each_task_once(1));
  CHECK_EQUAL(regions - before, 2);
  const auto ran_by = thread_of_each_share(3);
  CHECK_EQUAL(std::set<pthread_t>(ran_by.begin(), ran_by.end()).size(), size_t{3});
}

TEST(of_a_borrowed_team_no_more_threads_work_than_the_pool_may_use) {
  pool().set_threads(2);
  const Lent lent(5);
  std::set<pthread_t> seen;
  std::mutex mutex;
  pool().run(1000, [&](int64_t, int64_t) {
    const std::lock_guard<std::mutex> guard(mutex);
    seen.insert(pthread_self());
  });
  CHECK(seen.size() <= 2);
}

TEST(runs_of_a_thread_that_did_not_ask_for_the_team_take_workers) {
  pool().set_threads(3);
  const Lent lent(3);
  const int before = regions;
  std::thread([] { CHECK(runs_each_task_once(1000)); }).join();
  CHECK_EQUAL(regions - before, 0);
  CHECK(ThreadPool::use_team(false));
  CHECK(runs_each_task_once(1000));
  CHECK_EQUAL(regions - before, 0);
}

TEST(a_team_that_is_only_its_caller_does_everything) {
  pool().set_threads(4);
  const Lent lent(1);
  CHECK(runs_each_task_once(1000));
}

TEST(workers_come_back_after_a_borrowed_team) {
  pool().set_threads(3);
  {
    const Lent lent(3);
    CHECK(runs_each_task_once(1000));
  }
  CHECK(!pool().borrows());
  CHECK(pool_works_with_all_its_threads());
}

#if defined(CAN_FORK)
TEST(a_forked_child_has_workers_in_place_of_a_borrowed_team) {
  pool().set_threads(3);
  const Lent lent(3);
  CHECK(runs_each_task_once(1000));
  CHECK(succeeds_in_forked_child(
      [] { return !pool().borrows() && pool_works_with_all_its_threads(); }));
  CHECK(runs_each_task_once(1000));
}
#endif

#if defined(__SSE__) || defined(__aarch64__)
std::atomic<int> flushing_after{0};

void parallel_watched(void (*body)(void*), void* data, unsigned, unsigned) {
  std::thread([=] {
    flush_to_zero(false);
    team_number = 1;
    body(data);
    flushing_after += half_of_the_smallest_normal() == 0;
  }).join();
  body(data);
}

const gradstep::OpenMP kWatched = {parallel_watched, [] { return team_number; }, [] { return 2; }};

TEST(a_borrowed_thread_computes_in_the_callers_floating_point_state_and_keeps_its_own) {
  pool().set_threads(2);
  const Lent lent(2, kWatched);
  flush_to_zero(true);
  std::atomic<int> flushed{0};
  pool().run(2, [&](int64_t begin, int64_t end) {
    for (; begin < end; ++begin) flushed += half_of_the_smallest_normal() == 0;
  });
  flush_to_zero(false);
  CHECK_EQUAL(flushed.load(), 2);
  CHECK_EQUAL(flushing_after.load(), 0);
}
#endif

}  // namespace
