// The threads of NumPy's OpenBLAS, while they are awake.
//
// After a product they spin for some 25 ms on the cores that a step wants: workers of our own would
// have to wait for these, and waking them is what a step after a product would pay for. So a run
// that finds them awake takes them, as it takes torch's team beside torch. OpenBLAS exports what
// that needs: gotoblas_pthread, its "pthread_create and join" on the threads of its server.
#pragma once
#include "engine/thread_pool.hpp"

namespace gradstep {

// Looks for the first OpenBLAS with threads of its own among the libraries of this process; null if
// there is none (another BLAS, or one that computes on OpenMP).
//
// Its server hands a job to the first thread that is free, and waits for one while there is none:
// whoever uses this must know that no other thread is in a product meanwhile.
const OpenMP* find_blas_threads() noexcept;

// How many of its threads are on a CPU now, by their processor times: a microsecond or some. The
// first call looks at them once, which wakes them, and returns 0.
int blas_threads_awake() noexcept;

}  // namespace gradstep
