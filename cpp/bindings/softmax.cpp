// Softmax and its logarithm along an axis.
#include "engine/activation/softmax.hpp"

#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/memory.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

SoftmaxJob job_along(SoftmaxKind kind, const Axis& axis) {
  SoftmaxJob job{};
  job.kind = kind;
  job.rows = axis.outer * axis.inner;
  job.n = axis.n;
  job.inner = axis.inner;
  return job;
}

py::array softmax(bool log_form, py::handle x, py::handle axis, py::handle out) {
  const Input input = check_c_order(x, "x", kFloatTypes);
  SoftmaxJob job = job_along(log_form ? kLogSoftmax : kSoftmax, check_axis(input, axis, "x"));
  Memory memory;
  memory.reads(input, "x", true);
  py::array y = memory.result(out, input, "x");
  job.x = job.dy = input.view.data;
  job.y = y.mutable_data();
  without_gil(input.view.n, [&] { run_softmax(job, input.view.type); });
  return y;
}

py::array softmax_backward(bool log_form, py::handle dy, py::handle y, py::handle axis,
                           py::handle out) {
  const Input input = check_c_order(y, "y", kFloatTypes);
  const Input gradient = check_input_like(dy, input, "dy", "y");
  SoftmaxJob job =
      job_along(log_form ? kLogSoftmaxBackward : kSoftmaxBackward, check_axis(input, axis, "y"));
  Memory memory;
  memory.reads(gradient, "dy", true);
  memory.reads(input, "y", true);
  py::array dx = memory.result(out, input, "y");
  job.x = input.view.data;
  job.dy = gradient.view.data;
  job.y = dx.mutable_data();
  without_gil(input.view.n, [&] { run_softmax(job, input.view.type); });
  return dx;
}

}  // namespace

void define_softmax(py::module_& m) {
  m.def("softmax", softmax);
  m.def("softmax_backward", softmax_backward);
}

}  // namespace gradstep
