#include "engine/thread_pool.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string_view>
#include <thread>
#include <utility>

#include "engine/float_control.hpp"
#include "engine/share_out.hpp"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace gradstep {
namespace {

constexpr int kPauses = 100;  // 3 us there; a yield takes 0.4 us

thread_local bool on_team = false, on_lent = false;

void pause() noexcept {
#if defined(__SSE__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");  // `yield` is a no-op on most cores, too short to be polite
#endif
}

int64_t nanoseconds() noexcept {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// A moving average over some four values. One that is far off counts as `most`, so that the average
// stays where large runs still try, and learn of better times.
void average(std::atomic<int64_t>* average, int64_t value, int64_t most) noexcept {
  const int64_t before = average->load(std::memory_order_relaxed);
  average->store(before + (std::min(value, most) - before) / 4, std::memory_order_relaxed);
}

// Spins until tuning.spin is over. Measured on two virtual Zen 5 cores, with runs of 36 us: a run
// that finds its worker parked takes 20 us longer, so the time should be of that order or longer;
// from 200 us to 1 ms on, a matrix product between the runs gets slower. Pauses first, which reacts
// fastest, then gives the core away between looks, so that more threads than cores still get on.
class Spin {
 public:
  bool again() noexcept {
    if (pauses_ < kPauses) {
      ++pauses_;
      pause();
      return true;
    }
    const auto now = std::chrono::steady_clock::now();
    if (pauses_ == kPauses) {
      ++pauses_;
      deadline_ = now + std::chrono::microseconds(tuning.spin);
    }
    if (now >= deadline_) return false;
    sched_yield();
    return true;
  }

 private:
  int pauses_ = 0;
  std::chrono::steady_clock::time_point deadline_;
};

#if defined(__linux__)
bool get_affinity(CpuSet* cpus) noexcept {
  return sched_getaffinity(0, sizeof cpus->bits, reinterpret_cast<cpu_set_t*>(cpus->bits)) == 0;
}
#endif

void name_this_thread() noexcept {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), "gradstep");
#elif defined(__APPLE__)
  pthread_setname_np("gradstep");
#endif
}

// Keeps from this thread, and from those that it starts, every signal that somebody sends; a fault
// of a thread's own is still reported as usual. Windows has no such signals.
class SignalsKeptAway {
#if !defined(_WIN32)
 public:
  SignalsKeptAway() noexcept {
    sigset_t signals;
    sigfillset(&signals);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) {
      sigdelset(&signals, fault);
    }
    pthread_sigmask(SIG_BLOCK, &signals, &before_);
  }
  ~SignalsKeptAway() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
#endif
};

}  // namespace

int CpuSet::count() const noexcept {
  int count = 0;
  for (const uint64_t word : bits) count += std::popcount(word);
  return count;
}

// Constant-initialized and trivially destroyed: usable at any moment of the process's life.
constinit ThreadPool ThreadPool::pool_;
static_assert(std::is_trivially_destructible_v<ThreadPool>);

// Only the child is handled: it needs no lock to be free, because it drops all state but threads_.
const int ThreadPool::fork_handler_ = pthread_atfork(nullptr, nullptr, reset_in_forked_child);

void ThreadPool::reset_in_forked_child() noexcept {
  pool_.started_ = 0;
  pool_.borrowed_ = nullptr;
  pool_.lent_ = nullptr;
  pool_.busy_ = false;
  pool_.placed_ = 0;
  pool_.caller_cpu_ = -1;
}

ThreadPool& ThreadPool::instance() noexcept { return pool_; }

int ThreadPool::threads() const noexcept {
  int n = threads_.load(std::memory_order_relaxed);
  if (n > 0) return n;
  const int chosen = default_threads();
  return threads_.compare_exchange_strong(n, chosen) ? chosen : n;
}

void ThreadPool::set_threads(int n) noexcept { threads_ = std::clamp(n, 1, kMaxThreads); }

void ThreadPool::borrow(const OpenMP* runtime) noexcept { borrowed_ = runtime; }

void ThreadPool::lend(const OpenMP* runtime, int (*awake)() noexcept) noexcept {
  while (busy_.exchange(true, std::memory_order_acquire)) sched_yield();
  lent_awake_ = awake;
  lent_since_ = nanoseconds();
  rest_until_ = 0;
  lent_ = runtime;
  busy_.store(false, std::memory_order_release);
}

bool ThreadPool::use_lent(bool on) noexcept { return std::exchange(on_lent, on); }

bool ThreadPool::use_team(bool on) noexcept { return std::exchange(on_team, on); }

bool ThreadPool::borrows() const noexcept { return borrowed_ != nullptr; }

void ThreadPool::run(int64_t tasks, TaskRange body, Wake wake, bool coarse) noexcept {
  if (tasks <= 0) return;
  const OpenMP* team = on_team ? borrowed_.load(std::memory_order_acquire) : nullptr;
  int size = team ? team->max_threads() : kMaxThreads;
  auto wanted = static_cast<int>(std::min<int64_t>({threads(), size, tasks}));
  if (wanted == 1 || busy_.load(std::memory_order_relaxed) ||
      busy_.exchange(true, std::memory_order_acquire)) {
    return body(0, tasks);
  }
  if (!team) {
    const int64_t now = nanoseconds();
    const bool may_lend = on_lent && wake == Wake::kIfWorth && tasks >= kSample;
    if (const int lent = may_lend ? lent_and_awake(now) : 0; lent > 0) {
      team = lent_;
      size = wanted = std::min(wanted, lent + 1);
    } else {
      start_workers(wanted - 1);
      place_workers(now);
      in_a_row_ = now - ended_ < tuning.spin * 1000 ? in_a_row_ + 1 : 0;
      if (wake == Wake::kIfWorth && caller_cpus_ == 1) {  // workers could only take turns with it
        busy_.store(false, std::memory_order_release);
        return body(0, tasks);
      }
    }
  }
  active_ = wanted;
  float_control_ = float_control();
  body_ = body;
  share_out(tasks);
  if (team) {
    // All of OpenMP's, although some may find nothing to do: another size is a new team.
    team->parallel(team_main, const_cast<OpenMP*>(team), static_cast<unsigned>(size), 0);
  } else {
    const int awake = invite_awake();
    const bool waking = awake < wanted - 1 && (wake == Wake::kAll || worth_waking(tasks, coarse));
    if (waking) wake_parked();
    if (waking || awake > 0) {
      drain(0);
      join();
    } else if (const int64_t left = members_[0].next; left < tasks) {
      body(left, tasks);  // nobody comes: all shares, which lie one after the other
    }
    ended_ = nanoseconds();
  }
  busy_.store(false, std::memory_order_release);
}

// How many lent threads a run may take now. Workers that are awake come first. Now and then lent
// threads are left alone for longer than they spin, so that those that nobody else uses go to
// sleep.
int ThreadPool::lent_and_awake(int64_t now) noexcept {
  constexpr int64_t kStreak = 1'000'000'000, kRest = 40'000'000;
  const OpenMP* lent = lent_.load(std::memory_order_relaxed);
  if (!lent || now < rest_until_ || (started_ > 0 && members_[1].phase != kParked)) return 0;
  const int most = lent->max_threads() - 1;
  const int awake = most > 0 ? std::min(most, lent_awake_()) : 0;
  if (awake == 0) lent_since_ = now;
  if (now - lent_since_ < kStreak) return awake;
  lent_since_ = rest_until_ = now + kRest;
  return 0;
}

// A worker that cannot be started is to this run one that never comes: others take its share.
void ThreadPool::start_workers(int wanted) noexcept {
  if (started_ >= wanted) return;
  [[maybe_unused]] const SignalsKeptAway kept;  // inherited, so no worker ever has them open
  while (started_ < wanted) {
    pthread_t thread;
    void* index = reinterpret_cast<void*>(static_cast<intptr_t>(started_ + 1));
    members_[started_ + 1].phase = kIdle;  // in a forked child it is what the parent's worker was
    if (pthread_create(&thread, nullptr, worker_main, index) != 0) break;
    pthread_detach(thread);
    members_[++started_].thread = thread;
  }
  int setting = threads_;
  if (started_ < wanted && setting > started_ + 1) {  // do not try again at every run
    threads_.compare_exchange_strong(setting, started_ + 1);
  }
}

// Before anybody is invited: the first to come may already steal from the last.
void ThreadPool::share_out(int64_t tasks) noexcept {
  const int64_t size = tasks / active_, longer = tasks % active_;
  int64_t begin = 0;
  for (int i = 0; i < active_; ++i) {
    members_[i].next.store(begin, std::memory_order_relaxed);
    begin += size + (i < longer ? 1 : 0);
    members_[i].end = begin;
  }
}

// The system wakes a thread beside its waker, starts it beside its creator and leaves it there as
// long as it spins: it then waits for its caller to sleep, for as long as the run lasts, while
// another CPU idles. So workers may run wherever their caller may, but for the CPU that it is on.
// Looked at anew when the caller moved, and now and then, because its mask may change from outside.
void ThreadPool::place_workers(int64_t now) noexcept {
#if defined(__linux__)
  constexpr int64_t kLookAgain = 100'000'000;  // nanoseconds
  const int cpu = sched_getcpu();
  if (cpu == caller_cpu_ && placed_ == started_ && now - looked_ < kLookAgain) return;
  CpuSet mask;
  if (cpu < 0 || !get_affinity(&mask)) return;
  caller_cpu_ = cpu;
  caller_cpus_ = mask.count();
  looked_ = now;
  if (caller_cpus_ > 1) mask.remove(cpu);
  if (!(mask == mask_)) placed_ = 0;
  mask_ = mask;
  while (placed_ < started_) {
    ++placed_;
    pthread_setaffinity_np(members_[placed_].thread, sizeof mask_.bits,
                           reinterpret_cast<const cpu_set_t*>(mask_.bits));
  }
#else
  looked_ = now;  // the system places them
#endif
}

// Returns how many there are. A word for each worker, rather than one for all: it wakes nobody who
// is not meant, and a futex call for each sleeper costs little beside the wake-up itself.
int ThreadPool::invite_awake() noexcept {
  int awake = 0;
  for (int i = 1; i < active_; ++i) {
    uint32_t seen = kIdle;
    awake += members_[i].phase.compare_exchange_strong(seen, kInvited);
  }
  return awake;
}

// Whether there is enough left to do here, or in what seems to come: where runs follow each other
// before a worker would park, it stays awake for the next ones. May do two tasks, for the time of
// the second.
bool ThreadPool::worth_waking(int64_t tasks, bool coarse) noexcept {
  if (in_a_row_ >= kManyInARow) return true;
  if (tasks < kSample) return coarse;
  do_one_task();  // which fetches what other work took out of the caches: its time is not typical
  const int64_t begin = nanoseconds();
  if (!do_one_task()) return false;
  if ((nanoseconds() - begin) * (tasks - 2) > worthwhile()) return true;
  arrival_ -= arrival_ / 128;  // tries again some time
  return false;
}

bool ThreadPool::do_one_task() noexcept {
  Member& own = members_[0];
  const int64_t task = own.next.fetch_add(1, std::memory_order_relaxed);
  if (task >= own.end) return false;  // another took the last
  body_(task, task + 1);
  return true;
}

// Nanoseconds of work for the caller alone above which a wake-up gains. With a worker that comes
// after `arrival`, of which the caller loses `cost`, work of length w takes (w + arrival + cost) /
// 2; and a worker's caches are cold, which was found to take about as long as the half of the cost.
// A quarter more, since some arrive later than on average and there is little to gain at the edge.
int64_t ThreadPool::worthwhile() const noexcept {
  const int64_t fixed = tuning.wake, even = arrival_ + wake_cost_ + wake_cost_ / 2;
  return fixed > 0 ? fixed * 1000 : even + even / 4;
}

// The last first: a worker that is parked itself wakes those two that it is the parent of in a
// binary heap, so that the caller of many does not wake them all.
void ThreadPool::wake_parked() noexcept {
  const int64_t begin = nanoseconds();
  for (int i = active_ - 1; i > 0; --i) {
    const int parent = i / 2;
    if (parent == 0 || members_[parent].phase != kParked) wake(i);
  }
  average(&wake_cost_, nanoseconds() - begin, 50'000);
}

void ThreadPool::wake_children(int self) noexcept {
  for (int i = 2 * self; i <= 2 * self + 1 && i < active_; ++i) wake(i);
}

void ThreadPool::wake(int member) noexcept {
  auto& phase = members_[member].phase;
  uint32_t seen = kParked;
  members_[member].woken.store(nanoseconds(), std::memory_order_relaxed);
  if (phase.compare_exchange_strong(seen, kInvited)) phase.notify_one();
}

// No task is left to take. A worker that has not come yet is not waited for: with more threads
// than cores it may be long in coming.
void ThreadPool::join() noexcept {
  for (int i = 1; i < active_; ++i) {
    auto& phase = members_[i].phase;
    uint32_t seen = kInvited;
    if (phase.compare_exchange_strong(seen, kIdle)) continue;
    Spin spin;
    while (phase.load(std::memory_order_acquire) == kWorking && spin.again()) {
    }
    seen = kWorking;
    if (phase.compare_exchange_strong(seen, kAwaited)) phase.wait(kAwaited);
  }
}

// Takes an eighth of what is left of a share at a time, at least one task. The first ranges are
// long, so that a thousand tiny tasks cost tens of atomic operations; the last are single tasks,
// so that the threads finish together.
void ThreadPool::drain(int self) noexcept {
  for (int i = 0; i < active_; ++i) {
    Member& owner = members_[self + i < active_ ? self + i : self + i - active_];
    int64_t begin = owner.next.load(std::memory_order_relaxed);
    while (begin < owner.end) {
      const int64_t end = begin + std::max<int64_t>(1, (owner.end - begin) / 8);
      if (!owner.next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
      body_(begin, end);
      begin = owner.next.load(std::memory_order_relaxed);
    }
  }
}

// Inside a parallel region of the other library a team is the caller alone, who takes all shares.
void ThreadPool::team_main(void* runtime) noexcept {
  const int self = static_cast<const OpenMP*>(runtime)->thread_num();
  if (self >= pool_.active_) return;
  const uint64_t before = float_control();
  set_float_control(pool_.float_control_);
  pool_.drain(self);
  set_float_control(before);
}

void* ThreadPool::worker_main(void* index) {
  name_this_thread();
  pool_.work(static_cast<int>(reinterpret_cast<intptr_t>(index)));
}

void ThreadPool::work(int self) noexcept {
  auto& phase = members_[self].phase;
  bool was_parked = false;
  for (Spin spin;;) {
    uint32_t seen = phase.load(std::memory_order_relaxed);
    if (seen == kInvited && phase.compare_exchange_strong(seen, kWorking)) {
      set_float_control(float_control_);
      if (std::exchange(was_parked, false)) wake_children(self);
      drain(self);
      if (phase.exchange(kIdle) == kAwaited) phase.notify_one();
      spin = Spin();
      continue;
    }
    if (spin.again()) continue;
    seen = kIdle;
    if (!phase.compare_exchange_strong(seen, kParked)) continue;
    phase.wait(kParked);
    average(&arrival_, nanoseconds() - members_[self].woken.load(std::memory_order_relaxed),
            300'000);
    was_parked = true;
    spin = Spin();
  }
}

namespace {

// The number that is all of `text`, spaces aside; 0 for anything else.
int64_t positive_number(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == text.npos) return 0;
  text = text.substr(first, text.find_last_not_of(" \t") + 1 - first);
  int64_t number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool valid = failure == std::errc() && end == text.data() + text.size();
  return valid ? std::max<int64_t>(number, 0) : 0;
}

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

int available_cpus() {
#if defined(__linux__)
  CpuSet cpus;
  if (get_affinity(&cpus)) {
    return std::min(cpus.count(), cgroup_cpus("/proc/self/cgroup", "/sys/fs/cgroup"));
  }
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

// The quota that one control group sets, in CPUs rounded up; the largest number if none.
int64_t group_cpus(const std::string& folder, bool v2) {
  int64_t quota = 0, period = 0;  // microseconds; 0 after "max" or a missing file
  std::ifstream first(folder + (v2 ? "/cpu.max" : "/cpu.cfs_quota_us"));
  first >> quota;
  if (v2) {
    first >> period;
  } else {
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  const bool limited = quota > 0 && period > 0;
  return limited ? (quota - 1) / period + 1 : std::numeric_limits<int64_t>::max();
}

}  // namespace

int cgroup_cpus(const std::string& membership, const std::string& mount) {
  int64_t cpus = kMaxThreads;
  std::ifstream lines(membership);
  for (std::string line; std::getline(lines, line);) {  // id:controllers:path, see cgroups(7)
    const auto colon = line.find(':'), second = line.find(':', colon + 1);
    if (colon == line.npos || second == line.npos) continue;
    const std::string controllers = "," + line.substr(colon + 1, second - colon - 1) + ",";
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",cpu,") == controllers.npos) continue;
    const std::string top = v2 ? mount : mount + "/cpu";
    std::string path = line.substr(second + 1);
    // A container may see a path of its host's that does not exist inside: what exists counts.
    for (; !path.empty(); path.erase(path.rfind('/') == path.npos ? 0 : path.rfind('/'))) {
      cpus = std::min(cpus, group_cpus(top + path, v2));
    }
    cpus = std::min(cpus, group_cpus(top, v2));
  }
  return static_cast<int>(cpus);
}

int default_threads(std::string* error) {
  const std::string_view own = environment("GRADSTEP_NUM_THREADS");
  const int64_t wanted = positive_number(own);
  if (wanted >= 1 && wanted <= kMaxThreads) return static_cast<int>(wanted);
  if (!own.empty() && error) {
    *error = "GRADSTEP_NUM_THREADS: '" + std::string(own) +
             "', expected a whole number from 1 to " + std::to_string(kMaxThreads);
  }
  const std::string_view openmp = environment("OMP_NUM_THREADS");
  const int64_t first = positive_number(openmp.substr(0, openmp.find(',')));
  if (first > 0) return static_cast<int>(std::min<int64_t>(first, kMaxThreads));
  return std::clamp(available_cpus(), 1, kMaxThreads);
}

}  // namespace gradstep
