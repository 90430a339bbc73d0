// The fork-join thread pool under every parallel kernel call.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>

namespace gradstep {

inline constexpr int kMaxThreads = 1024;

// A callable borrowed for the duration of a call: two pointers, no allocation.
template <class Signature>
class FunctionRef;

template <class Result, class... Args>
class FunctionRef<Result(Args...)> {
 public:
  constexpr FunctionRef() = default;

  template <class Callable>
    requires(!std::is_same_v<std::remove_cvref_t<Callable>, FunctionRef> &&
             std::is_object_v<std::remove_reference_t<Callable>> &&
             std::is_invocable_r_v<Result, Callable&, Args...>)
  FunctionRef(Callable&& callable) noexcept  // implicit, so that a lambda can be passed as it is
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(callable)))),
        call_([](void* object, Args... args) -> Result {
          return (*static_cast<std::remove_reference_t<Callable>*>(object))(args...);
        }) {}

  Result operator()(Args... args) const { return call_(object_, args...); }

 private:
  void* object_ = nullptr;
  Result (*call_)(void*, Args...) = nullptr;
};

// Runs the tasks [begin, end). Must not throw.
using TaskRange = FunctionRef<void(int64_t begin, int64_t end)>;

// An OpenMP runtime that another library computes on, by its own functions.
struct OpenMP {
  // Runs body(data) on the threads of a team, the caller among them, and waits for all (libgomp's
  // GOMP_parallel, which libomp has too). 0 flags: as the runtime sees fit.
  void (*parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags) = nullptr;
  int (*thread_num)() = nullptr;   // in body: which of the team, 0 is the caller
  int (*max_threads)() = nullptr;  // the size of the caller's next team
};

// CPUs by number, as the system's calls take them: room for the largest machines.
struct CpuSet {
  uint64_t bits[128] = {};
  bool has(int cpu) const noexcept { return bits[cpu / 64] >> (cpu % 64) & 1; }
  void remove(int cpu) noexcept { bits[cpu / 64] &= ~(uint64_t{1} << (cpu % 64)); }
  int count() const noexcept;
  bool operator==(const CpuSet&) const noexcept = default;
};

// Which parked workers a run wakes: every one, or none before the time that the rest of the tasks
// would take the caller alone is known to be worth it.
enum class Wake { kAll, kIfWorth };

// One pool for the process. It has no destructor: its workers are detached and only touch its
// static storage, so they may sleep or spin through exit(). After fork() the child has the same
// thread setting and no workers. Forking from inside a body and dlclose() are not supported.
class ThreadPool {
 public:
  static ThreadPool& instance() noexcept;

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Number of threads that `run` uses, the caller included; default_threads() until set. Falls
  // when the system refuses to start that many.
  int threads() const noexcept;

  // Clamps n to [1, kMaxThreads]. Takes effect at the next run and waits for none.
  void set_threads(int n) noexcept;

  // Lends a runtime, for good; nullptr takes it back. A forked child has none: its team is not
  // there.
  void borrow(const OpenMP* runtime) noexcept;
  bool borrows() const noexcept;

  // Lends threads that may sleep, for good; `awake` tells how many do not. A forked child has none.
  void lend(const OpenMP* runtime, int (*awake)() noexcept) noexcept;

  // Whether runs of this thread take such threads while they are awake and workers are not; returns
  // what held before.
  static bool use_lent(bool on) noexcept;

  // Whether runs of this thread take the team of a lent runtime instead of workers, among at most
  // as many threads as it has; returns what held before. Idle threads of OpenMP spin for
  // milliseconds after their work, on the cores that others need: beside a library that computes on
  // OpenMP workers come too late for short runs, and beside any other a team would be in the way.
  static bool use_team(bool on) noexcept;

  // Calls `body` on disjoint ranges that cover [0, tasks), on at most min(threads(), tasks)
  // threads, the caller among them; returns when all are done. A thread works through a contiguous
  // share of its own first, the same one whenever the call is repeated, then through what is left
  // of the others' shares. The caller does everything itself when the pool is busy, be it with
  // another caller's run or with the one that this call is made from. Workers compute under the
  // caller's floating-point control state (rounding, flush to zero).
  //
  // A worker that is awake is always invited. A parked one takes 20 to 80 us to arrive and 5 to 15
  // us of its caller's time, by machine and by what else runs: where `wake` leaves the choice, the
  // caller does two tasks, takes the time, and wakes the others only where the rest would take it
  // longer than a wake-up has been found to cost (or than tuning.wake). That needs tasks of about
  // the same length, and enough of them that one does not matter (kSample); of fewer tasks
  // `coarse` says whether they are worth the wake.
  void run(int64_t tasks, TaskRange body, Wake wake = Wake::kAll, bool coarse = true) noexcept;

  static constexpr int64_t kSample = 8;
  static constexpr int kManyInARow = 4;

 private:
  // Who writes which phase of a worker:
  //   worker: idle -> parked (goes to sleep), invited -> working, working or awaited -> idle
  //   caller: idle or parked -> invited, invited -> idle (too late, all is done),
  //           working -> awaited (the caller goes to sleep)
  // Whoever takes over from parked or awaited has a sleeper to notify; nobody else pays for that.
  enum Phase : uint32_t { kIdle, kParked, kInvited, kWorking, kAwaited };

  // 128 bytes: x86 prefetches lines of 64 in pairs, Apple silicon has lines of 128.
  struct alignas(128) Member {
    std::atomic<uint32_t> phase{kIdle};
    std::atomic<int64_t> woken{0};  // nanoseconds of the steady clock
    pthread_t thread{};
    std::atomic<int64_t> next{0};  // the share of tasks [next, end) that nobody has taken yet
    int64_t end = 0;
  };

  constexpr ThreadPool() = default;

  static void* worker_main(void* index);
  static void reset_in_forked_child() noexcept;
  static const int fork_handler_;
  static ThreadPool pool_;

  static void team_main(void* runtime) noexcept;

  [[noreturn]] void work(int self) noexcept;
  void drain(int self) noexcept;
  int lent_and_awake(int64_t now) noexcept;
  void start_workers(int wanted) noexcept;
  void place_workers(int64_t now) noexcept;
  void share_out(int64_t tasks) noexcept;
  int invite_awake() noexcept;
  bool do_one_task() noexcept;
  bool worth_waking(int64_t tasks, bool coarse) noexcept;
  void wake_parked() noexcept;
  void wake_children(int self) noexcept;
  int64_t worthwhile() const noexcept;
  void wake(int member) noexcept;
  void join() noexcept;

  mutable std::atomic<int> threads_{0};  // 0: not asked for yet
  std::atomic<const OpenMP*> borrowed_{nullptr}, lent_{nullptr};
  alignas(128) std::atomic<bool> busy_{false};
  // Everything below belongs to the caller that holds busy_; the members of its run read it.
  int started_ = 0;  // workers that exist: members [1, started_]
  int active_ = 0;   // members of this run: [0, active_), 0 is the caller
  uint64_t float_control_ = 0;
  TaskRange body_;
  // Placement: the CPU of the caller and the CPUs that it may run on when this was last looked at;
  // workers [1, placed_] run on `mask_`, which is all of these but that one.
  int caller_cpu_ = -1, caller_cpus_ = 0, placed_ = 0;
  int64_t looked_ = 0, ended_ = 0;  // nanoseconds; when the last run ended
  int (*lent_awake_)() noexcept = nullptr;
  int64_t lent_since_ = 0, rest_until_ = 0;  // nanoseconds: runs on lent threads without a rest
  // Moving averages, in nanoseconds: from a wake to the worker's arrival, and the caller's part.
  std::atomic<int64_t> arrival_{30'000}, wake_cost_{8'000};
  int in_a_row_ = 0;  // runs since the last gap in which an awake worker would have parked
  CpuSet mask_;
  Member members_[kMaxThreads];
};

// The number of threads to begin with, in [1, kMaxThreads]: GRADSTEP_NUM_THREADS, else the first
// number of OMP_NUM_THREADS, else the CPUs that the process may run on, limited by its CPU quota.
// A bad OMP_NUM_THREADS is ignored; so is a bad GRADSTEP_NUM_THREADS, but `error` then says why.
int default_threads(std::string* error = nullptr);

// The CPU quota of this process in whole CPUs, rounded up, the smallest along its path of control
// groups (v2 cpu.max, v1 cpu.cfs_quota_us); kMaxThreads if there is none.
// `membership`: a file like /proc/self/cgroup; `mount`: a directory like /sys/fs/cgroup.
int cgroup_cpus(const std::string& membership, const std::string& mount);

}  // namespace gradstep
