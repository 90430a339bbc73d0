// Activations that treat every element alone.
#include "engine/activation/elementwise.hpp"

#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/memory.hpp"
#include "engine/dispatch.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

int check_index(int64_t index) {
  const int64_t count = active_table().activation->activation_count;
  if (index < 0 || index >= count)
    throw py::value_error("index: " + std::to_string(index) + ", expected one of ACTIVATIONS");
  return static_cast<int>(index);
}

py::array activate(int64_t index, py::handle x, py::handle out, double parameter) {
  const int function = check_index(index);
  const Input input = check_dense(x, "x", kFloatTypes);
  Memory memory;
  memory.reads(input, "x", true);
  py::array y = memory.result(out, input, "x");
  const ArrayView& view = input.view;
  void* to = y.mutable_data();
  without_gil(view.n,
              [&] { run_activation(function, view.type, parameter, view.n, view.data, to); });
  return y;
}

py::array activate_backward(int64_t index, py::handle dy, py::handle saved,
                            const std::string& argument, py::handle out, double parameter) {
  const int function = check_index(index);
  const Input input = check_dense(saved, argument, kFloatTypes);
  const Input gradient = check_input_like(dy, input, "dy", argument);
  Memory memory;
  memory.reads(gradient, "dy", true);
  memory.reads(input, argument.c_str(), true);
  py::array dx = memory.result(out, input, argument.c_str());
  const ArrayView& view = input.view;
  void* to = dx.mutable_data();
  without_gil(view.n, [&] {
    run_activation_backward(function, view.type, parameter, view.n, gradient.view.data, view.data,
                            to);
  });
  return dx;
}

}  // namespace

void define_elementwise(py::module_& m) {
  py::dict activations;
  const ActivationKernels& kernels = *active_table().activation;
  for (int i = 0; i < kernels.activation_count; ++i) activations[kernels.activations[i].name] = i;
  m.attr("ACTIVATIONS") = activations;
  m.def("activate", activate);
  m.def("activate_backward", activate_backward);
}

}  // namespace gradstep
