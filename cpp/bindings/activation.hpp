#pragma once
#include <pybind11/pybind11.h>

namespace gradstep {

void define_activation(pybind11::module_& m);

}  // namespace gradstep
