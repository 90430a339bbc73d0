// Layer norm and RMS norm: rows share weight and bias by element.
#include "engine/norm/row_norm.hpp"

#include <algorithm>
#include <limits>

#include "bindings/arguments.hpp"
#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/norm.hpp"
#include "bindings/norm_calls.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

// Where the trailing `axes` axes begin: those of weight where that is given.
size_t first_trailing(const Input& x, py::handle weight, py::handle axes) {
  const auto dims = static_cast<int64_t>(x.shape.size());
  if (dims == 0) throw py::value_error("x: shape (), expected 1 axis or more");
  int64_t count = 1;
  const bool as_weight = axes.is_none() && py::isinstance<py::array>(weight);
  if (!axes.is_none()) count = check_integer(axes, "axes");
  if (as_weight) count = py::reinterpret_borrow<py::array>(weight).ndim();
  if (count >= 1 && count <= dims) return static_cast<size_t>(dims - count);
  if (as_weight)
    throw py::value_error("weight: shape " + shape_text(shape_of(weight)) +
                          ", expected that of the trailing axes of x, shape " +
                          shape_text(x.shape));
  throw py::value_error("axes: " + std::to_string(count) + " trailing axes, expected 1 to " +
                        std::to_string(dims) + " for x of shape " + shape_text(x.shape));
}

// The same for axes of these sizes.
size_t first_trailing(const Input& x, const Shape& sizes) {
  const bool fits = !sizes.empty() && sizes.size() <= x.shape.size() &&
                    std::equal(sizes.rbegin(), sizes.rend(), x.shape.rbegin());
  if (!fits)
    throw py::value_error("x: shape " + shape_text(x.shape) + ", expected it to end with " +
                          shape_text(sizes));
  return x.shape.size() - sizes.size();
}

// What forward and backward share.
struct Rows {
  const Library& library;
  Input x;
  Shape outer, inner;
  Memory memory;
  RowNorm job{};

  // first: of the axes that are normalised.
  Rows(const Library& of, const Input& input, size_t first, py::handle weight, py::handle bias,
       bool centred)
      : library(of), x(input) {
    const auto split = x.shape.begin() + static_cast<Shape::difference_type>(first);
    outer.assign(x.shape.begin(), split);
    inner.assign(split, x.shape.end());
    job.type = x.view.type;
    job.rows = product(outer, 0, outer.size());
    job.size = product(inner, 0, inner.size());
    job.x = x.view.data;
    job.centred = centred;
    memory.reads(x, "x", true);
    job.weight = check_numbers(library, weight, "weight", inner, job.type, 1, &memory);
    job.bias = check_bias(library, bias, job.weight, inner, job.type, &memory);
  }
};

py::tuple row_norm(Rows& rows, double eps, py::handle out) {
  RowNorm& job = rows.job;
  job.eps = eps;
  const NewArray y = rows.library.result(out, rows.x, "x", &rows.memory);
  py::array mean = new_array(kFloat64, rows.outer), invstd = new_array(kFloat64, rows.outer);
  const py::tuple result = job.centred ? py::tuple(py::make_tuple(y.object, mean, invstd))
                                       : py::tuple(py::make_tuple(y.object, invstd));
  job.y = y.data;
  job.mean = static_cast<double*>(mean.mutable_data());
  job.invstd = static_cast<double*>(invstd.mutable_data());
  without_gil(rows.x.view.n, [&] { forward(job); });
  return result;
}

py::tuple row_norm_backward(Rows& rows, py::handle dy, py::handle mean, py::handle invstd,
                            py::handle out) {
  RowNorm& job = rows.job;
  const Library& library = rows.library;
  const Input gradient = library.read_like(dy, rows.x, "dy", "x");
  rows.memory.reads(gradient, "dy", true);
  if (job.centred) job.mean = check_statistic(mean, "mean", rows.outer, &rows.memory);
  job.invstd = check_statistic(invstd, "invstd", rows.outer, &rows.memory);
  const NewArray dx = library.result(out, rows.x, "x", &rows.memory);
  const Numbers& like = job.weight;
  const NewNumbers dweight(library.gradient(rows.x, like, rows.inner, Library::kWeight));
  const NewNumbers dbias(library.gradient(rows.x, like, rows.inner, Library::kBias));
  const py::tuple result = job.centred
                               ? py::tuple(py::make_tuple(dx.object, dweight.array, dbias.array))
                               : py::tuple(py::make_tuple(dx.object, dweight.array));
  job.dy = gradient.view.data;
  job.y = dx.data;
  job.dweight = dweight.numbers;
  job.dbias = dbias.numbers;
  without_gil(rows.x.view.n, [&] { backward(job); });
  return result;
}

Rows rows_of_arrays(py::handle x, py::handle weight, py::handle bias, py::handle axes,
                    bool centred) {
  const Input input = numpy.read(x, Access::kRead, "x");
  return {numpy, input, first_trailing(input, weight, axes), weight, bias, centred};
}

double epsilon(DType type) {
  return with_type(value_type(type),
                   []<class T>() -> double { return std::numeric_limits<T>::epsilon(); });
}

// eps None: the machine epsilon of the type that formulas compute in, as in torch.
py::object tensor_row_norm(py::handle call, py::handle x, py::handle sizes, py::handle weight,
                           py::handle bias, py::handle eps, bool centred) {
  const py::object found = on_tensors([&]() -> py::object {
    const Tensors tensors;
    const Input input = tensors.read(x, Access::kRead, "x");
    Rows rows(tensors, input, first_trailing(input, check_sizes(sizes)), weight, bias, centred);
    const double value = eps.is_none() ? epsilon(input.view.type) : check_eps(eps);
    return row_norm(rows, value, py::none());
  });
  return recorded(call, x, weight, bias, found);
}

}  // namespace

py::object row_norm_gradients(const NormCall& call, const NormGradients& given) {
  return on_tensors([&]() -> py::object {
    const bool centred = call.kind == NormCall::kLayer;
    const Needs needs(given.needs);
    const Tensors tensors(needs, given.weight);
    const Input x = tensors.read(given.x, Access::kRead, "x");
    const auto dims = static_cast<int64_t>(x.shape.size());
    if (call.axes < 1 || call.axes > dims) throw py::value_error("x: too few dimensions");
    Rows rows(tensors, x, dims - call.axes, given.weight, py::none(), centred);
    const py::handle mean = given.statistics[0], invstd = given.statistics[centred ? 1 : 0];
    return gradients(row_norm_backward(rows, given.dy, mean, invstd, py::none()), needs, 2);
  });
}

void define_row_norm(py::module_& m) {
  m.def("layer_norm", [](py::handle x, py::handle weight, py::handle bias, py::handle eps,
                         py::handle axes, py::handle out) {
    Rows rows = rows_of_arrays(x, weight, bias, axes, true);
    return row_norm(rows, check_eps(eps), out);
  });
  m.def("layer_norm_backward", [](py::handle dy, py::handle x, py::handle weight, py::handle mean,
                                  py::handle invstd, py::handle axes, py::handle out) {
    Rows rows = rows_of_arrays(x, weight, py::none(), axes, true);
    return row_norm_backward(rows, dy, mean, invstd, out);
  });
  m.def("rms_norm",
        [](py::handle x, py::handle weight, py::handle eps, py::handle axes, py::handle out) {
          Rows rows = rows_of_arrays(x, weight, py::none(), axes, false);
          return row_norm(rows, check_eps(eps), out);
        });
  m.def("rms_norm_backward", [](py::handle dy, py::handle x, py::handle weight, py::handle invstd,
                                py::handle axes, py::handle out) {
    Rows rows = rows_of_arrays(x, weight, py::none(), axes, false);
    return row_norm_backward(rows, dy, py::none(), invstd, out);
  });
  m.def("tensor_layer_norm",
        [](py::handle call, py::handle x, py::handle sizes, py::handle weight, py::handle bias,
           py::handle eps) { return tensor_row_norm(call, x, sizes, weight, bias, eps, true); });
  m.def("tensor_rms_norm",
        [](py::handle call, py::handle x, py::handle sizes, py::handle weight, py::handle eps) {
          return tensor_row_norm(call, x, sizes, weight, py::none(), eps, false);
        });
}

}  // namespace gradstep
