#pragma once
#include <pybind11/pybind11.h>

namespace gradstep {

void define_norm(pybind11::module_& m);

}  // namespace gradstep
