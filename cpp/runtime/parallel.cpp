// Threads: one seam for every kernel. docs/architecture.md, "Threads".
#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <new>
#include <thread>

#include "runtime.hpp"
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#endif
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace chainrule {
namespace {

// IEEE defaults (round to nearest, no flushing of denormals, no traps) for a scope, whatever the host has set.
class FloatEnvironment {
#if defined(__x86_64__)
  unsigned saved_ = _mm_getcsr();

 public:
  FloatEnvironment() { _mm_setcsr(0x1F80); }
  ~FloatEnvironment() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
  uint64_t saved_;

 public:
  FloatEnvironment() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(uint64_t(0)));
  }
  ~FloatEnvironment() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#endif
};

std::atomic<int32_t> package_threads{0};
std::atomic<bool> forked_child{false};

#if defined(__linux__)
// libgomp's pool does not survive a fork: a child that used it would wait for threads that are gone.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked_child = true; });

// Cores (not hyperthreads) among those this process may run on.
int physical_cores() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  int cores = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    int first = cpu;
    if (FILE *file = fopen(path, "r")) {
      if (fscanf(file, "%d", &first) != 1) first = cpu;
      fclose(file);
    }
    cores += first == cpu || !CPU_ISSET(first, &allowed);
  }
  return cores > 0 ? cores : 1;
}

// The container's CPU quota in whole cores (cgroup v2, then v1); no quota: a large number.
int quota_cores() {
  double quota = -1, period = -1;
  if (FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (fscanf(file, "%lf %lf", &quota, &period) != 2) quota = -1;  // "max 100000" reads no number
    fclose(file);
  } else {
    FILE *q = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r");
    FILE *p = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
    if (q && p && (fscanf(q, "%lf", &quota) != 1 || fscanf(p, "%lf", &period) != 1)) quota = -1;
    if (q) fclose(q);
    if (p) fclose(p);
  }
  if (quota <= 0 || period <= 0) return 1 << 20;
  int cores = int(quota / period + 0.5);
  return cores > 0 ? cores : 1;
}

int default_cores() {
  static const int cores = [] {
    int physical = physical_cores(), quota = quota_cores();
    return physical < quota ? physical : quota;
  }();
  return cores;
}
#else
int default_cores() { return 1 << 20; }
#endif

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// When this thread last polled: kept between regions, so that a loop of short ones is interrupted too.
thread_local double polled = 0;

// What arena() hands out: one block a thread.
struct Workspace {
  void *memory = nullptr;
  size_t size = 0;
  ~Workspace() { ::operator delete(memory, std::align_val_t(64)); }
};
thread_local Workspace workspace;

// A poll may run a signal handler that calls kernels on this very thread: they get a workspace of their own.
bool poll_asks_to_stop(const chainrule_exec *exec) {
  Workspace apart;
  auto exchange = [&apart] {
    void *memory = workspace.memory;
    size_t size = workspace.size;
    workspace.memory = apart.memory, workspace.size = apart.size;
    apart.memory = memory, apart.size = size;
  };
  exchange();
  const bool stop = exec->poll(exec->poll_data);
  exchange();
  return stop;
}

// A worker's pieces that nobody has begun: on a cache line of its own.
struct alignas(64) Share {
  std::atomic<size_t> next;
  size_t end;
};
constexpr size_t kShares = 64;  // more workers than that begin with the same ones

constexpr double kPollSeconds = 0.02;     // Ctrl-C is answered within this and one piece of work
constexpr double kWorkPerThread = 400000;  // multiply-adds: some 20 us, ten times the cost of waking a second thread

}  // namespace

int32_t get_num_threads() {
#ifdef _OPENMP
  if (forked_child) return 1;
  if (int32_t n = package_threads) return n;
  int openmp = omp_get_max_threads();  // OMP_NUM_THREADS, and what threadpoolctl sets
  static const bool given = getenv("OMP_NUM_THREADS") != nullptr;
  if (given) return openmp;
  int cores = default_cores();
  return openmp < cores ? openmp : cores;
#else
  return 1;
#endif
}

void set_num_threads(int32_t n) { package_threads = n > 0 ? n : 0; }

int plan_threads(const chainrule_exec *exec, size_t pieces, double work) {
  int threads = exec && exec->n_threads > 0 ? exec->n_threads : get_num_threads();
  double useful = work / kWorkPerThread;
  if (double(threads) > useful) threads = useful > 1 ? int(useful) : 1;
  if (size_t(threads) > pieces) threads = pieces > 0 ? int(pieces) : 1;
#ifdef _OPENMP
  if (forked_child || omp_in_parallel()) return 1;
  return threads;
#else
  return 1;
#endif
}

bool asked_to_stop(const chainrule_exec *exec) {
  if (!exec || !exec->poll) return false;
  const double time = now();
  if (time - polled <= kPollSeconds) return false;
  polled = time;
  return poll_asks_to_stop(exec);
}

void give_way() { std::this_thread::yield(); }

void parallel_team(int threads, team_body *body, void *context) {
#ifdef _OPENMP
  if (threads > 1 && !forked_child && !omp_in_parallel()) {
#pragma omp parallel num_threads(threads)
    {
      FloatEnvironment ieee;
      body(context, omp_get_thread_num(), omp_get_num_threads());
    }
    return;
  }
#endif
  (void)threads;
  FloatEnvironment ieee;
  body(context, 0, 1);
}

chainrule_status parallel_for(const chainrule_exec *exec, int threads, size_t n, size_t grain, parallel_body *body,
                              void *context) {
  std::atomic<bool> stop{false};
  const size_t pieces = (n + grain - 1) / grain;
  // A worker begins with a contiguous range of pieces, so that neighbours in memory stay with one core; then it helps the others
  // with theirs, since no two cores are equally fast all the time.
  Share shares[kShares];
  const size_t count = size_t(threads) < kShares ? size_t(threads) : kShares;
  for (size_t i = 0; i < count; ++i) shares[i].next = pieces * i / count, shares[i].end = pieces * (i + 1) / count;
  auto work = [&](int worker) {
    FloatEnvironment ieee;
    for (size_t turn = 0; turn < count; ++turn) {
      Share &share = shares[(size_t(worker) + turn) % count];
      size_t piece;
      while (!stop.load(std::memory_order_relaxed) && (piece = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end) {
        size_t begin = piece * grain, end = begin + grain;
        body(context, begin, end < n ? end : n, worker);
        if (worker == 0 && asked_to_stop(exec)) stop = true;
      }
    }
  };
#ifdef _OPENMP
  if (threads > 1 && !forked_child && !omp_in_parallel()) {
#pragma omp parallel num_threads(threads)
    work(omp_get_thread_num());
    return stop ? CHAINRULE_INTERRUPTED : CHAINRULE_OK;
  }
#endif
  work(0);
  return stop ? CHAINRULE_INTERRUPTED : CHAINRULE_OK;
}

void *arena(size_t bytes) {
  if (bytes > workspace.size || !workspace.memory) {  // no bytes are a place too: NULL means none left
    ::operator delete(workspace.memory, std::align_val_t(64));
    workspace.size = 0;
    workspace.memory = ::operator new(bytes, std::align_val_t(64), std::nothrow);
    if (workspace.memory) workspace.size = bytes;
  }
  return workspace.memory;
}

}  // namespace chainrule
