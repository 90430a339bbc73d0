// PReLU and maxout, which know channels.
#include "bindings/arguments.hpp"
#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/memory.hpp"
#include "engine/activation/maxout.hpp"
#include "engine/activation/prelu.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

// One weight counts as a channel of everything.
PreluJob prelu_job(const Input& x, py::handle weight, py::handle axis, Memory* memory) {
  const ArrayView view =
      check_array(weight, Access::kRead, "weight", py::none(), kValueTypes, kCOrder);
  const Shape shape = shape_of(weight);
  if (shape.size() != 1)
    throw py::value_error("weight: shape " + shape_text(shape) + ", expected one dimension");
  if (view.type != x.view.type)
    throw py::type_error(std::string("weight: dtype ") + name_of(view.type) + ", expected " +
                         name_of(x.view.type) + " as in x");
  memory->reads({py::reinterpret_borrow<py::object>(weight), view, shape}, "weight");
  PreluJob job{};
  job.weight = view.data;
  job.x = x.view.data;
  job.outer = job.channels = 1;
  job.inner = x.view.n;
  if (view.n == 1) return job;
  const Axis channels = check_axis(x, axis, "x");
  if (channels.n != view.n)
    throw py::value_error("weight: shape " + shape_text(shape) + ", expected (" +
                          std::to_string(channels.n) + ",) for axis " + text(axis) +
                          " of x, or (1,)");
  job.outer = channels.outer;
  job.channels = channels.n;
  job.inner = channels.inner;
  return job;
}

py::array prelu(py::handle x, py::handle weight, py::handle axis, py::handle out) {
  const Input input = check_c_order(x, "x");
  Memory memory;
  PreluJob job = prelu_job(input, weight, axis, &memory);
  memory.reads(input, "x", true);
  py::array y = memory.result(out, input, "x");
  job.y = y.mutable_data();
  without_gil(input.view.n, [&] { run_prelu(job, input.view.type); });
  return y;
}

py::tuple prelu_backward(py::handle dy, py::handle x, py::handle weight, py::handle axis,
                         py::handle out) {
  const Input input = check_c_order(x, "x"), gradient = check_input_like(dy, input, "dy", "x");
  const DType type = input.view.type;
  Memory memory;
  PreluJob job = prelu_job(input, weight, axis, &memory);
  memory.reads(gradient, "dy", true);
  memory.reads(input, "x", true);
  py::array dx = memory.result(out, input, "x"), dweight = new_array(type, {job.channels});
  py::tuple both = py::make_tuple(dx, dweight);
  job.dy = gradient.view.data;
  job.y = dx.mutable_data();
  std::vector<double> sums(job.channels);
  without_gil(input.view.n, [&] { run_prelu_backward(job, type, sums.data()); });
  for (int64_t c = 0; c < job.channels; ++c) set_value(dweight.mutable_data(), type, c, sums[c]);
  return both;
}

// shape: that of y.
MaxoutJob maxout_job(const Input& x, py::handle k, py::handle axis, Shape* shape) {
  const int64_t pieces = check_integer(k, "k");
  const Axis along = check_axis(x, axis, "x");
  if (pieces < 1 || along.n % pieces != 0)
    throw py::value_error("k: " + std::to_string(pieces) + ", expected a divisor of " +
                          std::to_string(along.n) + ", the size of axis " + text(axis) + " of x");
  *shape = x.shape;
  (*shape)[along.index] /= pieces;
  return {along.outer, along.n / pieces, pieces, along.inner, x.view.data, nullptr, nullptr};
}

py::array maxout(py::handle x, py::handle k, py::handle axis, py::handle out) {
  const Input input = check_c_order(x, "x");
  Shape shape;
  MaxoutJob job = maxout_job(input, k, axis, &shape);
  Memory memory;
  memory.reads(input, "x");
  py::array y = memory.result(out, shape, input.view.type, "x");
  job.y = y.mutable_data();
  without_gil(input.view.n, [&] { run_maxout(job, input.view.type); });
  return y;
}

py::array maxout_backward(py::handle dy, py::handle x, py::handle k, py::handle axis,
                          py::handle out) {
  const Input input = check_c_order(x, "x");
  Shape shape;
  MaxoutJob job = maxout_job(input, k, axis, &shape);
  const Input gradient = check_shaped(dy, Access::kRead, "dy", shape, input.view.type, "x");
  Memory memory;
  memory.reads(gradient, "dy");
  memory.reads(input, "x", true);
  py::array dx = memory.result(out, input, "x");
  job.dy = gradient.view.data;
  job.y = dx.mutable_data();
  without_gil(input.view.n, [&] { run_maxout(job, input.view.type); });
  return dx;
}

}  // namespace

void define_channels(py::module_& m) {
  m.attr("CHANNEL_ROWS") = kChannelRows;
  m.def("prelu", prelu);
  m.def("prelu_backward", prelu_backward);
  m.def("maxout", maxout);
  m.def("maxout_backward", maxout_backward);
}

}  // namespace gradstep
