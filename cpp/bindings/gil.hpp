// Work without the GIL.
#pragma once
#include <pybind11/pybind11.h>

#include "engine/share_out.hpp"

namespace gradstep {

// Unlike pybind11::gil_scoped_release this takes the GIL again outside of a destructor: a daemon
// thread that wants it while the interpreter ends is unwound there, which no destructor survives.
template <class Work>
void without_gil(const Work& work) {
  PyThreadState* state = PyEval_SaveThread();
  work();
  PyEval_RestoreThread(state);
}

// The same for work on so many elements, but what one thread does at once keeps the GIL: it is
// shorter than giving it away and getting it back.
template <class Work>
void without_gil(int64_t elements, const Work& work) {
  if (!worth_sharing(elements)) return work();
  without_gil(work);
}

}  // namespace gradstep
