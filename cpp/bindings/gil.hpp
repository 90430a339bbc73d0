// Work without the GIL, and what stands for it where Python has none.
#pragma once
#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <thread>

#include "engine/share_out.hpp"

namespace gradstep {

// One object's GIL on a Python that has none, nothing on others. A thread that holds it gives it up
// where it would give up the GIL, in `without_gil` and where Python's own code waits, and has it
// again when that returns: it can be held across any call without a deadlock, and what it guards is
// as safe as under the GIL, not safer. `gil_option()` tells Python whether it needs its own; 3.13
// does, which has no critical section of a mutex.
#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030E0000
inline auto gil_option() { return pybind11::mod_gil_not_used(); }

class OwnGil {
 public:
  class Held {
   public:
    explicit Held(OwnGil& gil) noexcept { PyCriticalSection_BeginMutex(&section_, &gil.mutex_); }
    ~Held() { PyCriticalSection_End(&section_); }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;

   private:
    PyCriticalSection section_;
  };

 private:
  PyMutex mutex_{};
};
#else
inline auto gil_option() { return pybind11::multiple_interpreters::not_supported(); }

class OwnGil {
 public:
  struct Held {
    explicit Held(OwnGil&) noexcept {}
  };
};
#endif

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
