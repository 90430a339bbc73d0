#include "engine/blas_threads.hpp"

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#endif

namespace gradstep {

#if defined(__linux__)
namespace {

constexpr int kMost = 256;      // threads of a team: more are not asked for
constexpr int kOwnThreads = 1;  // of openblas_get_parallel: neither none nor OpenMP's

// int gotoblas_pthread(int numthreads, void *function, void *args, int stride): the caller runs
// function(args), a thread of the server each function(args + i stride), and all are waited for.
typedef int (*Run)(int threads, void (*function)(void*), void* arguments, int stride);
typedef int (*Number)();

struct Blas {
  Run run = nullptr;
  Number threads = nullptr;
};

Blas blas;
thread_local int team_number = 0;

struct Job {
  void (*body)(void*);
  void* data;
  int number;
};

void work(void* argument) {
  const Job& job = *static_cast<const Job*>(argument);
  team_number = job.number;
  job.body(job.data);
}

void parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  Job jobs[kMost];
  const int count = std::min(static_cast<int>(threads), kMost);
  for (int i = 0; i < count; ++i) jobs[i] = {body, data, i};
  blas.run(count, work, jobs, sizeof(Job));
}

const OpenMP kTeam = {parallel, [] { return team_number; },
                      [] { return std::min(blas.threads(), kMost); }};

// Names of one function in NumPy's and SciPy's wheels, and in the systems' libraries.
Number find_number(void* library, const char* const (&names)[4]) {
  for (const char* name : names)
    if (void* found = dlsym(library, name)) return reinterpret_cast<Number>(found);
  return nullptr;
}

int look(dl_phdr_info* info, size_t, void*) {
  if (!info->dlpi_name || !*info->dlpi_name) return 0;
  void* library = dlopen(info->dlpi_name, RTLD_NOLOAD | RTLD_LAZY);
  if (!library) return 0;
  const Run run = reinterpret_cast<Run>(dlsym(library, "gotoblas_pthread"));
  const Number parallel =
      find_number(library, {"scipy_openblas_get_parallel64_", "scipy_openblas_get_parallel",
                            "openblas_get_parallel64_", "openblas_get_parallel"});
  const Number threads =
      find_number(library, {"scipy_openblas_get_num_threads64_", "scipy_openblas_get_num_threads",
                            "openblas_get_num_threads64_", "openblas_get_num_threads"});
  if (run && parallel && threads && parallel() == kOwnThreads) {
    blas = {run, threads};
    return 1;  // and keeps the reference: it is used from now on
  }
  dlclose(library);
  return 0;
}

// The clocks of the processor times of the server's threads, which are given work in this order.
std::atomic<int> known{0};
clockid_t clocks[kMost];

void note_clock(void* argument) {
  const int number = static_cast<const Job*>(argument)->number;
  if (number > 0) pthread_getcpuclockid(pthread_self(), &clocks[number - 1]);
}

void find_clocks() noexcept {
  const int threads = std::min(blas.threads(), kMost);
  Job jobs[kMost];
  for (int i = 0; i < threads; ++i) jobs[i] = {nullptr, nullptr, i};
  blas.run(threads, note_clock, jobs, sizeof(Job));
  known = threads - 1;
}

// The time of a thread that runs is counted up to the moment of the call.
bool runs_now(clockid_t clock) noexcept {
  timespec first, second;
  if (clock_gettime(clock, &first) != 0) {  // it ended, as after a change of their number
    known = 0;
    return false;
  }
  return clock_gettime(clock, &second) == 0 &&
         (second.tv_nsec != first.tv_nsec || second.tv_sec != first.tv_sec);
}

}  // namespace

const OpenMP* find_blas_threads() noexcept {
  static std::mutex looking;
  const std::lock_guard<std::mutex> one(looking);
  if (!blas.run) dl_iterate_phdr(look, nullptr);
  return blas.run ? &kTeam : nullptr;
}

// A product takes the first threads, so that those awake are [0, n): all of them, or found by
// halves.
int blas_threads_awake() noexcept {
  const int all = known;
  if (all == 0) {
    find_clocks();
    return 0;
  }
  if (!runs_now(clocks[0])) return 0;
  if (all == 1 || runs_now(clocks[all - 1])) return all;
  int awake = 1, asleep = all;
  while (asleep - awake > 1) {
    const int middle = (awake + asleep) / 2;
    (runs_now(clocks[middle - 1]) ? awake : asleep) = middle;
  }
  return awake;
}
#else
const OpenMP* find_blas_threads() noexcept { return nullptr; }
int blas_threads_awake() noexcept { return 0; }
#endif

}  // namespace gradstep
