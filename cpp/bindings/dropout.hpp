// Dropout as Python sees it.
#pragma once
#include <pybind11/pybind11.h>

namespace gradstep {

void define_dropout(pybind11::module_& m);

}  // namespace gradstep
