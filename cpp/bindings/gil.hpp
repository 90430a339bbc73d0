// Work without the GIL.
#pragma once
#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <thread>

#include "engine/share_out.hpp"

namespace gradstep {

// Takes the GIL again. A daemon thread that wants it while the interpreter ends is unwound there
// (up to CPython 3.13), through callers that own Python objects and may not let go of them without
// the GIL: it stops here instead, as later CPythons make it do.
inline void take_gil(PyThreadState* state) {
  struct StopWhenUnwound {
    bool back = false;
    ~StopWhenUnwound() {
      while (!back) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  } stop;
  PyEval_RestoreThread(state);
  stop.back = true;
}

template <class Work>
void without_gil(const Work& work) {
  std::exception_ptr failure;
  PyThreadState* state = PyEval_SaveThread();
  try {
    work();
  } catch (...) {
    failure = std::current_exception();
  }
  take_gil(state);
  if (failure) std::rethrow_exception(failure);
}

// The same for work on so many elements, but what one thread does at once keeps the GIL: it is
// shorter than giving it away and getting it back.
template <class Work>
void without_gil(int64_t elements, const Work& work) {
  if (!worth_sharing(elements)) return work();
  without_gil(work);
}

}  // namespace gradstep
