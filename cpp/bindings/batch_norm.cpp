// Batch norm, and the statistics that several processes merge for it.
#include "engine/norm/batch_norm.hpp"

#include "bindings/arguments.hpp"
#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/norm.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

bool check_activation(py::handle activation) {
  if (activation.is_none()) return false;
  if (py::isinstance<py::str>(activation) && py::cast<std::string>(activation) == "relu")
    return true;
  throw py::value_error("activation: " + shown(activation) + ", expected None or 'relu'");
}

NormShape check_channels(const Input& x, py::handle axis_argument) {
  const int64_t axis = check_integer(axis_argument, "axis");
  const auto dims = static_cast<int64_t>(x.shape.size());
  if (dims < 2)
    throw py::value_error("x: shape " + shape_text(x.shape) + ", expected 2 axes or more");
  if (axis != 1 && axis != -1 && axis != dims - 1)
    throw py::value_error("axis: " + std::to_string(axis) +
                          ", expected 1 (channels first) or -1 (channels last)");
  if (axis != 1 || dims == 2)
    return {kChannelLanes, x.view.type, product(x.shape, 0, dims - 1), x.shape[dims - 1], 1};
  const int64_t size = product(x.shape, 2, dims);
  return {size == 1 ? kChannelLanes : kSpatialLanes, x.view.type, x.shape[0], x.shape[1], size};
}

void check_count(const NormShape& shape, const Input& x) {
  if (shape.pieces * shape.size == 1)
    throw py::value_error("x: shape " + shape_text(x.shape) +
                          ", expected more than one value per channel in training");
}

// averages: whether there is anything to average.
double check_momentum(py::handle momentum, py::handle tracked, bool averages) {
  int64_t count = 1;
  if (!tracked.is_none()) count = check_integer(tracked, "num_batches_tracked");
  if (count < 1)
    throw py::value_error("num_batches_tracked: " + std::to_string(count) + ", expected 1 or more");
  if (momentum.is_none()) {
    if (tracked.is_none() && averages)
      throw py::value_error(
          "num_batches_tracked: None, expected the number of batches with this one, which "
          "momentum=None averages");
    return 1.0 / static_cast<double>(count);
  }
  constexpr const char* kRange = "None or a number from 0 to 1";
  const double value = check_number(momentum, "momentum", kRange);
  if (!(value >= 0 && value <= 1))
    throw py::value_error("momentum: " + text(py::float_(value)) + ", expected " + kRange);
  return value;
}

// One of the two running statistics, of x's type or double: written in training, else read. None
// will do in training, for both.
Numbers check_running(py::handle object, py::handle other, const char* argument,
                      const NormShape& shape, bool training, Memory* memory) {
  const Access access = training ? Access::kWrite : Access::kRead;
  if (object.is_none()) {
    if (training && other.is_none()) return {};
    throw py::value_error(
        std::string(argument) + ": None, expected an array " +
        (training ? "as the other running statistic is given" : "when training is False"));
  }
  const DType found = check_array(object, access, argument).type;
  const Input input = check_shaped(object, access, argument, {shape.channels},
                                   found == kFloat64 ? found : shape.type, "x, or float64");
  if (training)
    memory->writes(input, argument);
  else
    memory->reads(input, argument);
  return {input.view.data, input.view.type};
}

py::tuple batch_norm(py::handle x, py::handle weight, py::handle bias, py::handle running_mean,
                     py::handle running_var, py::handle in_training, py::handle momentum,
                     py::handle tracked, py::handle eps, py::handle axis, py::handle activation,
                     py::handle out) {
  const Input input = check_c_order(x, "x");
  const bool training = check_bool(in_training, "training");
  const NormShape shape = check_channels(input, axis);
  const Shape channels{shape.channels};
  Memory memory;
  memory.reads(input, "x", true);
  BatchNormForward job{};
  job.shape = shape;
  job.weight = check_numbers(weight, "weight", channels, shape.type, 1, &memory);
  job.bias = check_numbers(bias, "bias", channels, shape.type, 0, &memory);
  job.running_mean =
      check_running(running_mean, running_var, "running_mean", shape, training, &memory);
  job.running_var =
      check_running(running_var, running_mean, "running_var", shape, training, &memory);
  job.training = training;
  job.relu = check_activation(activation);
  job.momentum = check_momentum(momentum, tracked, training && job.running_mean.data);
  job.eps = check_eps(eps);
  if (training) check_count(shape, input);
  py::array y = memory.result(out, input, "x");
  py::array mean = new_array(kFloat64, channels), invstd = new_array(kFloat64, channels);
  py::tuple result = py::make_tuple(y, mean, invstd);
  job.x = input.view.data;
  job.y = y.mutable_data();
  job.mean = static_cast<double*>(mean.mutable_data());
  job.invstd = static_cast<double*>(invstd.mutable_data());
  without_gil(shape.elements(), [&] { forward(job); });
  return result;
}

py::tuple batch_norm_backward(py::handle dy, py::handle x, py::handle weight, py::handle mean,
                              py::handle invstd, py::handle in_training, py::handle axis,
                              py::handle activation, py::handle bias, py::handle out) {
  const Input input = check_c_order(x, "x"), gradient = check_input_like(dy, input, "dy", "x");
  const bool training = check_bool(in_training, "training");
  const NormShape shape = check_channels(input, axis);
  const Shape channels{shape.channels};
  Memory memory;
  memory.reads(gradient, "dy", true);
  memory.reads(input, "x", true);
  BatchNormBackward job{};
  job.shape = shape;
  job.weight = check_numbers(weight, "weight", channels, shape.type, 1, &memory);
  job.bias = check_numbers(bias, "bias", channels, shape.type, 0, &memory);
  job.mean = check_statistic(mean, "mean", channels, &memory);
  job.invstd = check_statistic(invstd, "invstd", channels, &memory);
  job.training = training;
  job.relu = check_activation(activation);
  if (training) check_count(shape, input);
  py::array dx = memory.result(out, input, "x");
  const NewNumbers dweight(shape.type, channels), dbias(shape.type, channels);
  py::tuple result = py::make_tuple(dx, dweight.array, dbias.array);
  job.dy = gradient.view.data;
  job.x = input.view.data;
  job.dx = dx.mutable_data();
  job.dweight = dweight.numbers;
  job.dbias = dbias.numbers;
  without_gil(shape.elements(), [&] { backward(job); });
  return result;
}

// (mean, biased variance, count) of every channel.
py::tuple batch_norm_stats(py::handle x, py::handle axis) {
  const Input input = check_c_order(x, "x");
  const NormShape shape = check_channels(input, axis);
  std::vector<Moments> moments(shape.channels);
  NewNumbers mean(kFloat64, {shape.channels}), variance(kFloat64, {shape.channels});
  without_gil(shape.elements(), [&] { batch_moments(shape, input.view.data, moments.data()); });
  for (int64_t c = 0; c < shape.channels; ++c) {
    mean.numbers.set(c, moments[c].mean);
    variance.numbers.set(c, moments[c].variance());
  }
  return py::make_tuple(mean.array, variance.array, shape.pieces * shape.size);
}

}  // namespace

void define_batch_norm(py::module_& m) {
  m.def("batch_norm", batch_norm);
  m.def("batch_norm_backward", batch_norm_backward);
  m.def("batch_norm_stats", batch_norm_stats);
}

}  // namespace gradstep
