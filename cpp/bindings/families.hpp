// What each file of this folder adds to the module.
#pragma once
#include <pybind11/pybind11.h>

namespace gradstep {

void define_plan(pybind11::module_& m);
void define_exchange(pybind11::module_& m);
void define_tensors(pybind11::module_& m);
void define_norm_calls(pybind11::module_& m);
void define_dropout(pybind11::module_& m);
void define_batch_norm(pybind11::module_& m);
void define_row_norm(pybind11::module_& m);
void define_group_norm(pybind11::module_& m);
void define_elementwise(pybind11::module_& m);
void define_biased(pybind11::module_& m);
void define_softmax(pybind11::module_& m);
void define_halves(pybind11::module_& m);
void define_losses(pybind11::module_& m);
void define_channels(pybind11::module_& m);
void define_allocation(pybind11::module_& m);  // where the linker can

}  // namespace gradstep
