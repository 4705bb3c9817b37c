// What kernels may ask of the machine: threads and workspace. Plain functions, compiled for the baseline CPU.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "chainrule/chainrule.h"

namespace chainrule {

// Threads for `pieces` independent pieces that cost `work` multiply-adds in all: small work stays serial.
int plan_threads(const chainrule_exec *exec, size_t pieces, double work);

// Runs body(context, begin, end, worker) over [0, n), each call at most `grain` long and starting at a multiple of it,
// 0 <= worker < threads. Serial when threads is 1, inside another parallel region, or in a forked child. Sets the
// floating-point control word for every worker and restores it; polls for interruption on the calling thread.
typedef void parallel_body(void *context, size_t begin, size_t end, int worker);
chainrule_status parallel_for(const chainrule_exec *exec, int threads, size_t n, size_t grain, parallel_body *body,
                              void *context);

// Runs body(context, worker, workers) on a team of at most `threads` threads at the same time, the calling one worker 0: they
// may wait for one another.
typedef void team_body(void *context, int worker, int workers);
void parallel_team(int threads, team_body *body, void *context);
// Whether the caller of a long kernel asks to stop; asked every 20 ms at most, on the calling thread. exec may be NULL.
bool asked_to_stop(const chainrule_exec *exec);
// Lets another thread run: for one that has waited long.
void give_way();

// Workspace of the calling thread: 64-byte aligned, kept until the thread ends, valid until its next call. NULL: none left.
void *arena(size_t bytes);

int32_t get_num_threads();
void set_num_threads(int32_t n);

// A caller's lambda f(begin, end, worker) as a parallel_body. Internal linkage: instantiated inside kernel files.
namespace {
template <class F>
[[gnu::always_inline]] inline chainrule_status for_each(const chainrule_exec *exec, int threads, size_t n, size_t grain, F &&f) {
  return parallel_for(
      exec, threads, n, grain,
      [](void *context, size_t begin, size_t end, int worker) { (*static_cast<F *>(context))(begin, end, worker); }, &f);
}
template <class F> [[gnu::always_inline]] inline void run_team(int threads, F &&f) {
  parallel_team(threads, [](void *context, int worker, int workers) { (*static_cast<F *>(context))(worker, workers); }, &f);
}
}  // namespace

}  // namespace chainrule
