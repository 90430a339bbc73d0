// Work without the GIL.
#pragma once
#include <pybind11/pybind11.h>

namespace gradstep {

// Unlike pybind11::gil_scoped_release this takes the GIL again outside of a destructor: a daemon
// thread that wants it while the interpreter ends is unwound there, which no destructor survives.
template <class Work>
void without_gil(const Work& work) {
  PyThreadState* state = PyEval_SaveThread();
  work();
  PyEval_RestoreThread(state);
}

}  // namespace gradstep
