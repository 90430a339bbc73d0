// Batch norm, and the statistics that several processes merge for it.
#include "engine/norm/batch_norm.hpp"

#include "bindings/arguments.hpp"
#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/norm.hpp"
#include "bindings/norm_calls.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

bool check_activation(py::handle activation) {
  if (activation.is_none()) return false;
  if (py::isinstance<py::str>(activation) && py::cast<std::string>(activation) == "relu")
    return true;
  throw py::value_error("activation: " + shown(activation) + ", expected None or 'relu'");
}

NormShape channels_of(const Input& x, int64_t axis) {
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
Numbers check_running(const Library& library, py::handle object, py::handle other,
                      const char* argument, const NormShape& shape, bool training, Memory* memory) {
  const Access access = training ? Access::kWrite : Access::kRead;
  if (object.is_none()) {
    if (training && other.is_none()) return {};
    throw py::value_error(
        std::string(argument) + ": None, expected an array " +
        (training ? "as the other running statistic is given" : "when training is False"));
  }
  const DType found = library.read(object, access, argument).view.type;
  const Input input = library.read_shaped(object, access, argument, {shape.channels},
                                          found == kFloat64 ? found : shape.type, "x, or float64");
  if (training)
    memory->writes(input, argument);
  else
    memory->reads(input, argument);
  return {input.view.data, input.view.type};
}

// The options of a forward call that NumPy's and torch's share.
struct Options {
  py::handle weight, bias, running_mean, running_var;
  bool training, relu;
  py::handle momentum, tracked, eps, out;
};

py::tuple batch_norm(const Library& library, const Input& x, const NormShape& shape,
                     const Options& o) {
  const Shape channels{shape.channels};
  Memory memory;
  memory.reads(x, "x", true);
  BatchNormForward job{};
  job.shape = shape;
  job.weight = check_numbers(library, o.weight, "weight", channels, shape.type, 1, &memory);
  job.bias = check_bias(library, o.bias, job.weight, channels, shape.type, &memory);
  job.running_mean = check_running(library, o.running_mean, o.running_var, "running_mean", shape,
                                   o.training, &memory);
  job.running_var = check_running(library, o.running_var, o.running_mean, "running_var", shape,
                                  o.training, &memory);
  job.training = o.training;
  job.relu = o.relu;
  job.momentum = check_momentum(o.momentum, o.tracked, o.training && job.running_mean.data);
  job.eps = check_eps(o.eps);
  if (o.training) check_count(shape, x);
  const NewArray y = library.result(o.out, x, "x", &memory);
  py::array mean = new_array(kFloat64, channels), invstd = new_array(kFloat64, channels);
  py::tuple result = py::make_tuple(y.object, mean, invstd);
  job.x = x.view.data;
  job.y = y.data;
  job.mean = static_cast<double*>(mean.mutable_data());
  job.invstd = static_cast<double*>(invstd.mutable_data());
  without_gil(shape.elements(), [&] { forward(job); });
  return result;
}

py::tuple batch_norm_backward(const Library& library, const Input& x, py::handle dy,
                              py::handle weight, py::handle mean, py::handle invstd, bool training,
                              const NormShape& shape, bool relu, py::handle bias, py::handle out) {
  const Input gradient = library.read_like(dy, x, "dy", "x");
  const Shape channels{shape.channels};
  Memory memory;
  memory.reads(gradient, "dy", true);
  memory.reads(x, "x", true);
  BatchNormBackward job{};
  job.shape = shape;
  job.weight = check_numbers(library, weight, "weight", channels, shape.type, 1, &memory);
  job.bias = check_bias(library, bias, job.weight, channels, shape.type, &memory);
  job.mean = check_statistic(mean, "mean", channels, &memory);
  job.invstd = check_statistic(invstd, "invstd", channels, &memory);
  job.training = training;
  job.relu = relu;
  if (training) check_count(shape, x);
  const NewArray dx = library.result(out, x, "x", &memory);
  const NewNumbers dweight(library.gradient(x, job.weight, channels, Library::kWeight));
  const NewNumbers dbias(library.gradient(x, job.weight, channels, Library::kBias));
  py::tuple result = py::make_tuple(dx.object, dweight.array, dbias.array);
  job.dy = gradient.view.data;
  job.x = x.view.data;
  job.dx = dx.data;
  job.dweight = dweight.numbers;
  job.dbias = dbias.numbers;
  without_gil(shape.elements(), [&] { backward(job); });
  return result;
}

// Backward has to know whether x is channels last, as the result then is.
py::object tensor_batch_norm(py::handle call, py::handle x, py::handle weight, py::handle bias,
                             py::handle running_mean, py::handle running_var, bool training,
                             py::handle momentum, py::handle eps, bool relu) {
  const py::object found = on_tensors([&]() -> py::object {
    const bool last = is_channels_last(x);
    const Tensors tensors(last);
    const Input input = tensors.read(x, Access::kRead, "x");
    const py::tuple all = batch_norm(tensors, input, channels_of(input, last ? -1 : 1),
                                     {weight, bias, running_mean, running_var, training, relu,
                                      momentum, py::none(), eps, py::none()});
    return py::make_tuple(all[0], all[1], all[2], py::bool_(last));
  });
  return recorded(call, x, weight, bias, found);
}

// (mean, biased variance, count) of every channel.
py::tuple batch_norm_stats(py::handle x, py::handle axis) {
  const Input input = numpy.read(x, Access::kRead, "x");
  const NormShape shape = channels_of(input, check_integer(axis, "axis"));
  std::vector<Moments> moments(shape.channels);
  const Shape channels{shape.channels};
  NewNumbers mean(of_numpy(new_array(kFloat64, channels), kFloat64));
  NewNumbers variance(of_numpy(new_array(kFloat64, channels), kFloat64));
  without_gil(shape.elements(), [&] { batch_moments(shape, input.view.data, moments.data()); });
  for (int64_t c = 0; c < shape.channels; ++c) {
    mean.numbers.set(c, moments[c].mean);
    variance.numbers.set(c, moments[c].variance());
  }
  return py::make_tuple(mean.array, variance.array, shape.pieces * shape.size);
}

}  // namespace

py::object batch_norm_gradients(const NormCall& call, const NormGradients& given) {
  return on_tensors([&]() -> py::object {
    const Needs needs(given.needs);
    const bool last = given.statistics[2].ptr() == Py_True;
    const Tensors tensors(needs, given.weight, last);
    const Input x = tensors.read(given.x, Access::kRead, "x");
    const py::handle mean = given.statistics[0], invstd = given.statistics[1];
    const py::tuple found =
        batch_norm_backward(tensors, x, given.dy, given.weight, mean, invstd, call.training,
                            channels_of(x, last ? -1 : 1), call.relu, given.bias, py::none());
    return gradients(found, needs, 2);
  });
}

void define_batch_norm(py::module_& m) {
  m.def("batch_norm",
        [](py::handle x, py::handle weight, py::handle bias, py::handle running_mean,
           py::handle running_var, py::handle in_training, py::handle momentum, py::handle tracked,
           py::handle eps, py::handle axis, py::handle activation, py::handle out) {
          const Input input = numpy.read(x, Access::kRead, "x");
          const bool training = check_bool(in_training, "training");
          const NormShape shape = channels_of(input, check_integer(axis, "axis"));
          return batch_norm(numpy, input, shape,
                            {weight, bias, running_mean, running_var, training,
                             check_activation(activation), momentum, tracked, eps, out});
        });
  m.def("batch_norm_backward", [](py::handle dy, py::handle x, py::handle weight, py::handle mean,
                                  py::handle invstd, py::handle in_training, py::handle axis,
                                  py::handle activation, py::handle bias, py::handle out) {
    const Input input = numpy.read(x, Access::kRead, "x");
    const bool training = check_bool(in_training, "training");
    const NormShape shape = channels_of(input, check_integer(axis, "axis"));
    return batch_norm_backward(numpy, input, dy, weight, mean, invstd, training, shape,
                               check_activation(activation), bias, out);
  });
  m.def("tensor_batch_norm", tensor_batch_norm);
  m.def("batch_norm_stats", batch_norm_stats);
}

}  // namespace gradstep
