#include "bindings/norm.hpp"

#include <cmath>
#include <optional>

#include "bindings/arrays.hpp"
#include "bindings/gil.hpp"
#include "engine/norm/batch_norm.hpp"
#include "engine/norm/group_norm.hpp"
#include "engine/norm/row_norm.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

std::string text(py::handle object) { return py::cast<std::string>(py::str(object)); }

py::tuple tuple_of(const std::vector<int64_t>& shape) {
  py::tuple sizes(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) sizes[i] = py::int_(shape[i]);
  return sizes;
}

std::string shape_text(const std::vector<int64_t>& shape) { return text(tuple_of(shape)); }

// An array in C order, with its shape.
struct Input {
  ArrayView view;
  std::vector<int64_t> shape;
  py::handle array;
};

Input check_input(py::handle object, const std::string& argument) {
  const ArrayView view = check_array(object, Access::kRead, argument, py::none());
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (!(array.flags() & py::array::c_style))
    throw py::value_error(argument + ": F order, expected C order");
  return {view, {array.shape(), array.shape() + array.ndim()}, object};
}

int64_t product(const std::vector<int64_t>& shape, size_t first, size_t last) {
  int64_t n = 1;
  for (size_t i = first; i < last; ++i) n *= shape[i];
  return n;
}

// An array of the given shape and of x's type (or double), or none: `missing` then stands for it.
Numbers check_numbers(py::handle object, Access access, const std::string& argument,
                      const std::vector<int64_t>& shape, DType type, bool or_double,
                      double missing = 0) {
  if (object.is_none()) return {.missing = missing};
  const ArrayView view = check_array(object, access, argument, py::none());
  const auto array = py::reinterpret_borrow<py::array>(object);
  const std::vector<int64_t> found(array.shape(), array.shape() + array.ndim());
  if (found != shape)
    throw py::value_error(argument + ": shape " + text(array.attr("shape")) + ", expected " +
                          shape_text(shape));
  if (!(array.flags() & py::array::c_style))
    throw py::value_error(argument + ": F order, expected C order");
  if (view.type != type && !(or_double && view.type == kFloat64))
    throw py::type_error(argument + ": dtype " + text(array.dtype()) + ", expected " +
                         (type == kFloat32 ? "float32" : "float64") + " as in x" +
                         (or_double && type == kFloat32 ? ", or float64" : ""));
  return {view.data, view.type};
}

// mean or invstd, as a forward call returned it.
const double* check_statistic(py::handle object, const std::string& argument,
                              const std::vector<int64_t>& shape) {
  if (object.is_none())
    throw py::type_error(argument + ": None, expected the array that the forward call returned");
  return static_cast<const double*>(
      check_numbers(object, Access::kRead, argument, shape, kFloat64, false).data);
}

double check_eps(double eps) {
  if (!(eps >= 0) || std::isinf(eps))
    throw py::value_error("eps: " + text(py::float_(eps)) + ", expected a finite number >= 0");
  return eps;
}

bool check_activation(py::handle activation) {
  if (activation.is_none()) return false;
  if (py::isinstance<py::str>(activation) && py::cast<std::string>(activation) == "relu")
    return true;
  throw py::value_error("activation: " + py::cast<std::string>(py::repr(activation)) +
                        ", expected None or 'relu'");
}

py::array new_array(const std::vector<int64_t>& shape, DType type) {
  if (type == kFloat32) return py::array_t<float>(shape);
  return py::array_t<double>(shape);
}

// The memory that a call writes must be nobody else's, but `out` may be one of the big inputs.
class Memory {
 public:
  explicit Memory(const Input& x) : x_(x) {}

  void writes(const Numbers& numbers, int64_t n, const std::string& argument) {
    if (numbers.data) written_.add({numbers.data, numbers.type, n}, argument, py::none());
  }
  void reads(const Numbers& numbers, int64_t n, const std::string& argument) {
    if (numbers.data) read_.push_back({{numbers.data, numbers.type, n}, argument, false});
  }
  void reads(const Input& input, const std::string& argument) {
    read_.push_back({input.view, argument, true});
  }
  // The array for the result: new for None. Called last.
  py::array result(py::handle out) {
    py::array array = check_out(out, x_.array, "x", {});
    void* data = out.is_none() ? nullptr : const_cast<void*>(array.data());
    if (data) written_.add({data, x_.view.type, x_.view.n}, "out", py::none());
    written_.finish();
    for (const Read& read : read_)
      written_.check_read(read.view, read.may_be_out ? data : nullptr, read.argument, py::none());
    return array;
  }

 private:
  struct Read {
    ArrayView view;
    std::string argument;
    bool may_be_out;
  };
  const Input& x_;
  WrittenMemory written_;
  std::vector<Read> read_;
};

NormShape check_shape(const Input& x, int64_t axis) {
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

void check_count(const NormShape& shape, const std::vector<int64_t>& x_shape) {
  if (shape.pieces * shape.size == 1)
    throw py::value_error("x: shape " + shape_text(x_shape) +
                          ", expected more than one value per channel in training");
}

double check_momentum(py::handle momentum, py::handle tracked) {
  if (momentum.is_none()) {
    if (tracked.is_none())
      throw py::value_error(
          "num_batches_tracked: None, expected the number of batches with this one, which "
          "momentum=None averages");
    const auto count = py::cast<int64_t>(tracked);
    if (count < 1)
      throw py::value_error("num_batches_tracked: " + std::to_string(count) +
                            ", expected 1 or more");
    return 1.0 / static_cast<double>(count);
  }
  const auto value = py::cast<double>(momentum);
  if (!(value >= 0 && value <= 1))
    throw py::value_error("momentum: " + text(py::float_(value)) +
                          ", expected None or a number from 0 to 1");
  return value;
}

void check_running(py::handle mean, py::handle variance, bool training) {
  for (const auto& [array, name] : {std::pair{mean, "running_mean"}, {variance, "running_var"}})
    if (array.is_none() && (!training || mean.is_none() != variance.is_none()))
      throw py::value_error(
          std::string(name) + ": None, expected an array " +
          (training ? "as the other running statistic is given" : "when training is False"));
}

py::tuple batch_norm(py::handle x, py::handle weight, py::handle bias, py::handle running_mean,
                     py::handle running_var, bool training, py::handle momentum, py::handle tracked,
                     double eps, int64_t axis, py::handle activation, py::handle out) {
  const Input input = check_input(x, "x");
  const NormShape shape = check_shape(input, axis);
  const DType type = shape.type;
  const std::vector<int64_t> channels{shape.channels};
  const Access access = training ? Access::kWrite : Access::kRead;
  BatchNormForward job{};
  job.shape = shape;
  job.weight = check_numbers(weight, Access::kRead, "weight", channels, type, false, 1);
  job.bias = check_numbers(bias, Access::kRead, "bias", channels, type, false);
  check_running(running_mean, running_var, training);
  job.running_mean = check_numbers(running_mean, access, "running_mean", channels, type, true);
  job.running_var = check_numbers(running_var, access, "running_var", channels, type, true);
  job.training = training;
  job.relu = check_activation(activation);
  job.momentum = training && job.running_mean.data ? check_momentum(momentum, tracked) : 0;
  job.eps = check_eps(eps);
  if (training) check_count(shape, input.shape);
  Memory memory(input);
  memory.reads(input, "x");
  memory.reads(job.weight, shape.channels, "weight");
  memory.reads(job.bias, shape.channels, "bias");
  const auto running =
      training ? &Memory::writes
               : static_cast<void (Memory::*)(const Numbers&, int64_t, const std::string&)>(
                     &Memory::reads);
  (memory.*running)(job.running_mean, shape.channels, "running_mean");
  (memory.*running)(job.running_var, shape.channels, "running_var");
  py::array y = memory.result(out);
  py::array_t<double> mean(channels), invstd(channels);
  job.x = input.view.data;
  job.y = const_cast<void*>(y.data());
  job.mean = mean.mutable_data();
  job.invstd = invstd.mutable_data();
  without_gil(shape.elements(), [&] { forward(job); });
  return py::make_tuple(y, mean, invstd);
}

// dy, which must be like x.
Input check_dy(py::handle dy, const Input& x) {
  Input input = check_input(dy, "dy");
  input.view = check_like(dy, x.array, Access::kRead, "dy", "x", py::none());
  return input;
}

py::tuple batch_norm_backward(py::handle dy, py::handle x, py::handle weight, py::handle mean,
                              py::handle invstd, bool training, int64_t axis, py::handle activation,
                              py::handle bias, py::handle out) {
  const Input input = check_input(x, "x"), gradient = check_dy(dy, input);
  const NormShape shape = check_shape(input, axis);
  const DType type = shape.type;
  const std::vector<int64_t> channels{shape.channels};
  BatchNormBackward job{};
  job.shape = shape;
  job.weight = check_numbers(weight, Access::kRead, "weight", channels, type, false, 1);
  job.bias = check_numbers(bias, Access::kRead, "bias", channels, type, false);
  job.mean = check_statistic(mean, "mean", channels);
  job.invstd = check_statistic(invstd, "invstd", channels);
  job.training = training;
  job.relu = check_activation(activation);
  if (training) check_count(shape, input.shape);
  Memory memory(input);
  memory.reads(gradient, "dy");
  memory.reads(input, "x");
  memory.reads(job.weight, shape.channels, "weight");
  memory.reads(job.bias, shape.channels, "bias");
  memory.reads({const_cast<double*>(job.mean)}, shape.channels, "mean");
  memory.reads({const_cast<double*>(job.invstd)}, shape.channels, "invstd");
  py::array dx = memory.result(out);
  py::array dweight = new_array(channels, type), dbias = new_array(channels, type);
  job.dy = gradient.view.data;
  job.x = input.view.data;
  job.dx = const_cast<void*>(dx.data());
  job.dweight = {dweight.mutable_data(), type};
  job.dbias = {dbias.mutable_data(), type};
  without_gil(shape.elements(), [&] { backward(job); });
  return py::make_tuple(dx, dweight, dbias);
}

// (mean, biased variance, count) of every channel.
py::tuple batch_norm_stats(py::handle x, int64_t axis) {
  const Input input = check_input(x, "x");
  const NormShape shape = check_shape(input, axis);
  std::vector<Moments> moments(shape.channels);
  without_gil(shape.elements(), [&] { batch_moments(shape, input.view.data, moments.data()); });
  py::array_t<double> mean(shape.channels), variance(shape.channels);
  for (int64_t c = 0; c < shape.channels; ++c) {
    mean.mutable_data()[c] = moments[c].mean;
    variance.mutable_data()[c] = moments[c].variance();
  }
  return py::make_tuple(mean, variance, shape.pieces * shape.size);
}

// Where the trailing `axes` axes begin: those of weight where that is given.
size_t first_trailing(const Input& x, py::handle weight, py::handle axes) {
  const auto dims = static_cast<int64_t>(x.shape.size());
  int64_t count = 1;
  if (!axes.is_none())
    count = py::cast<int64_t>(axes);
  else if (py::isinstance<py::array>(weight))
    count = py::reinterpret_borrow<py::array>(weight).ndim();
  if (count < 1 || count > dims)
    throw py::value_error("axes: " + std::to_string(count) + " trailing axes, expected 1 to " +
                          std::to_string(dims) + " for x of shape " + shape_text(x.shape));
  return dims - count;
}

// The parts of a RowNorm that forward and backward share; `reads` collects what is read.
struct Rows {
  Input x;
  std::vector<int64_t> outer, inner;
  RowNorm job{};

  Rows(py::handle object, py::handle weight, py::handle bias, py::handle axes, bool centred)
      : x(check_input(object, "x")) {
    const size_t first = first_trailing(x, weight, axes);
    outer.assign(x.shape.begin(), x.shape.begin() + first);
    inner.assign(x.shape.begin() + first, x.shape.end());
    job.type = x.view.type;
    job.rows = product(outer, 0, outer.size());
    job.size = product(inner, 0, inner.size());
    job.x = x.view.data;
    job.centred = centred;
    job.weight = check_numbers(weight, Access::kRead, "weight", inner, job.type, false).data;
    job.bias = check_numbers(bias, Access::kRead, "bias", inner, job.type, false).data;
  }

  void reads(Memory* memory) const {
    memory->reads(x, "x");
    memory->reads({const_cast<void*>(job.weight), job.type}, job.size, "weight");
    memory->reads({const_cast<void*>(job.bias), job.type}, job.size, "bias");
  }
};

py::tuple row_norm(py::handle x, py::handle weight, py::handle bias, double eps, py::handle axes,
                   bool centred, py::handle out) {
  Rows rows(x, weight, bias, axes, centred);
  rows.job.eps = check_eps(eps);
  Memory memory(rows.x);
  rows.reads(&memory);
  py::array y = memory.result(out);
  py::array_t<double> mean(rows.outer), invstd(rows.outer);
  rows.job.y = const_cast<void*>(y.data());
  rows.job.mean = mean.mutable_data();
  rows.job.invstd = invstd.mutable_data();
  without_gil(rows.x.view.n, [&] { forward(rows.job); });
  if (!centred) return py::make_tuple(y, invstd);
  return py::make_tuple(y, mean, invstd);
}

py::tuple row_norm_backward(py::handle dy, py::handle x, py::handle weight, py::handle mean,
                            py::handle invstd, py::handle axes, bool centred, py::handle out) {
  Rows rows(x, weight, py::none(), axes, centred);
  RowNorm& job = rows.job;
  const Input gradient = check_dy(dy, rows.x);
  if (centred) job.mean = const_cast<double*>(check_statistic(mean, "mean", rows.outer));
  job.invstd = const_cast<double*>(check_statistic(invstd, "invstd", rows.outer));
  Memory memory(rows.x);
  rows.reads(&memory);
  memory.reads(gradient, "dy");
  memory.reads({job.mean}, job.rows, "mean");
  memory.reads({job.invstd}, job.rows, "invstd");
  py::array dx = memory.result(out);
  py::array dweight = new_array(rows.inner, job.type), dbias = new_array(rows.inner, job.type);
  job.dy = gradient.view.data;
  job.y = const_cast<void*>(dx.data());
  job.dweight = {dweight.mutable_data(), job.type};
  job.dbias = {dbias.mutable_data(), job.type};
  without_gil(rows.x.view.n, [&] { backward(job); });
  if (!centred) return py::make_tuple(dx, dweight);
  return py::make_tuple(dx, dweight, dbias);
}

// The parts of a GroupNorm that forward and backward share. groups None: one for every channel.
struct Grouped {
  Input x;
  std::vector<int64_t> statistics;
  GroupNorm job{};

  Grouped(py::handle object, py::handle groups, py::handle weight, py::handle bias)
      : x(check_input(object, "x")) {
    if (x.shape.size() < 2)
      throw py::value_error("x: shape " + shape_text(x.shape) + ", expected 2 axes or more");
    job.type = x.view.type;
    job.samples = x.shape[0];
    job.channels = x.shape[1];
    job.size = product(x.shape, 2, x.shape.size());
    job.groups = groups.is_none() ? job.channels : py::cast<int64_t>(groups);
    if (!groups.is_none() && (job.groups < 1 || job.channels % job.groups))
      throw py::value_error("groups: " + std::to_string(job.groups) + ", expected a divisor of " +
                            std::to_string(job.channels) + ", the channels of x");
    if (groups.is_none() && job.size == 1)
      throw py::value_error("x: shape " + shape_text(x.shape) +
                            ", expected more than one value per channel of a sample");
    statistics = {job.samples, job.groups};
    const std::vector<int64_t> channels{job.channels};
    job.weight = check_numbers(weight, Access::kRead, "weight", channels, job.type, false, 1);
    job.bias = check_numbers(bias, Access::kRead, "bias", channels, job.type, false);
    job.x = x.view.data;
  }

  void reads(Memory* memory) const {
    memory->reads(x, "x");
    memory->reads(job.weight, job.channels, "weight");
    memory->reads(job.bias, job.channels, "bias");
  }
};

py::tuple group_norm(py::handle x, py::handle groups, py::handle weight, py::handle bias,
                     double eps, py::handle out) {
  Grouped grouped(x, groups, weight, bias);
  GroupNorm& job = grouped.job;
  job.eps = check_eps(eps);
  Memory memory(grouped.x);
  grouped.reads(&memory);
  py::array y = memory.result(out);
  py::array_t<double> mean(grouped.statistics), invstd(grouped.statistics);
  job.y = const_cast<void*>(y.data());
  job.mean = mean.mutable_data();
  job.invstd = invstd.mutable_data();
  without_gil(grouped.x.view.n, [&] { forward(job); });
  return py::make_tuple(y, mean, invstd);
}

py::tuple group_norm_backward(py::handle dy, py::handle x, py::handle groups, py::handle weight,
                              py::handle mean, py::handle invstd, py::handle out) {
  Grouped grouped(x, groups, weight, py::none());
  GroupNorm& job = grouped.job;
  const Input gradient = check_dy(dy, grouped.x);
  const int64_t statistics = job.samples * job.groups;
  job.mean = const_cast<double*>(check_statistic(mean, "mean", grouped.statistics));
  job.invstd = const_cast<double*>(check_statistic(invstd, "invstd", grouped.statistics));
  Memory memory(grouped.x);
  grouped.reads(&memory);
  memory.reads(gradient, "dy");
  memory.reads({job.mean}, statistics, "mean");
  memory.reads({job.invstd}, statistics, "invstd");
  py::array dx = memory.result(out);
  py::array dweight = new_array({job.channels}, job.type),
            dbias = new_array({job.channels}, job.type);
  job.dy = gradient.view.data;
  job.y = const_cast<void*>(dx.data());
  job.dweight = {dweight.mutable_data(), job.type};
  job.dbias = {dbias.mutable_data(), job.type};
  without_gil(grouped.x.view.n, [&] { backward(job); });
  return py::make_tuple(dx, dweight, dbias);
}

}  // namespace

void define_norm(py::module_& m) {
  m.def("batch_norm", batch_norm);
  m.def("batch_norm_backward", batch_norm_backward);
  m.def("batch_norm_stats", batch_norm_stats);
  m.def("layer_norm",
        [](py::handle x, py::handle weight, py::handle bias, double eps, py::handle axes,
           py::handle out) { return row_norm(x, weight, bias, eps, axes, true, out); });
  m.def("layer_norm_backward", [](py::handle dy, py::handle x, py::handle weight, py::handle mean,
                                  py::handle invstd, py::handle axes, py::handle out) {
    return row_norm_backward(dy, x, weight, mean, invstd, axes, true, out);
  });
  m.def("rms_norm",
        [](py::handle x, py::handle weight, double eps, py::handle axes, py::handle out) {
          return row_norm(x, weight, py::none(), eps, axes, false, out);
        });
  m.def("rms_norm_backward", [](py::handle dy, py::handle x, py::handle weight, py::handle invstd,
                                py::handle axes, py::handle out) {
    return row_norm_backward(dy, x, weight, py::none(), invstd, axes, false, out);
  });
  m.def("group_norm", group_norm);
  m.def("group_norm_backward", group_norm_backward);
}

}  // namespace gradstep
