// Layer norm and RMS norm: rows share weight and bias by element.
#include "engine/norm/row_norm.hpp"

#include "bindings/arguments.hpp"
#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/norm.hpp"

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

// What forward and backward share.
struct Rows {
  Input x;
  Shape outer, inner;
  Memory memory;
  RowNorm job{};

  Rows(py::handle object, py::handle weight, py::handle bias, py::handle axes, bool centred)
      : x(check_c_order(object, "x")) {
    const size_t first = first_trailing(x, weight, axes);
    outer.assign(x.shape.begin(), x.shape.begin() + static_cast<Shape::difference_type>(first));
    inner.assign(x.shape.begin() + static_cast<Shape::difference_type>(first), x.shape.end());
    job.type = x.view.type;
    job.rows = product(outer, 0, outer.size());
    job.size = product(inner, 0, inner.size());
    job.x = x.view.data;
    job.centred = centred;
    memory.reads(x, "x", true);
    job.weight = check_numbers(weight, "weight", inner, job.type, 1, &memory).data;
    job.bias = check_numbers(bias, "bias", inner, job.type, 0, &memory).data;
  }
};

py::tuple row_norm(py::handle x, py::handle weight, py::handle bias, py::handle eps,
                   py::handle axes, bool centred, py::handle out) {
  Rows rows(x, weight, bias, axes, centred);
  rows.job.eps = check_eps(eps);
  py::array y = rows.memory.result(out, rows.x, "x");
  py::array mean = new_array(kFloat64, rows.outer), invstd = new_array(kFloat64, rows.outer);
  const py::tuple result =
      centred ? py::tuple(py::make_tuple(y, mean, invstd)) : py::tuple(py::make_tuple(y, invstd));
  rows.job.y = y.mutable_data();
  rows.job.mean = static_cast<double*>(mean.mutable_data());
  rows.job.invstd = static_cast<double*>(invstd.mutable_data());
  without_gil(rows.x.view.n, [&] { forward(rows.job); });
  return result;
}

py::tuple row_norm_backward(py::handle dy, py::handle x, py::handle weight, py::handle mean,
                            py::handle invstd, py::handle axes, bool centred, py::handle out) {
  Rows rows(x, weight, py::none(), axes, centred);
  RowNorm& job = rows.job;
  const Input gradient = check_input_like(dy, rows.x, "dy", "x");
  rows.memory.reads(gradient, "dy", true);
  if (centred) job.mean = check_statistic(mean, "mean", rows.outer, &rows.memory);
  job.invstd = check_statistic(invstd, "invstd", rows.outer, &rows.memory);
  py::array dx = rows.memory.result(out, rows.x, "x");
  const NewNumbers dweight(job.type, rows.inner), dbias(job.type, rows.inner);
  const py::tuple result = centred ? py::tuple(py::make_tuple(dx, dweight.array, dbias.array))
                                   : py::tuple(py::make_tuple(dx, dweight.array));
  job.dy = gradient.view.data;
  job.y = dx.mutable_data();
  job.dweight = dweight.numbers;
  job.dbias = dbias.numbers;
  without_gil(rows.x.view.n, [&] { backward(job); });
  return result;
}

}  // namespace

void define_row_norm(py::module_& m) {
  m.def("layer_norm",
        [](py::handle x, py::handle weight, py::handle bias, py::handle eps, py::handle axes,
           py::handle out) { return row_norm(x, weight, bias, eps, axes, true, out); });
  m.def("layer_norm_backward", [](py::handle dy, py::handle x, py::handle weight, py::handle mean,
                                  py::handle invstd, py::handle axes, py::handle out) {
    return row_norm_backward(dy, x, weight, mean, invstd, axes, true, out);
  });
  m.def("rms_norm",
        [](py::handle x, py::handle weight, py::handle eps, py::handle axes, py::handle out) {
          return row_norm(x, weight, py::none(), eps, axes, false, out);
        });
  m.def("rms_norm_backward", [](py::handle dy, py::handle x, py::handle weight, py::handle invstd,
                                py::handle axes, py::handle out) {
    return row_norm_backward(dy, x, weight, py::none(), invstd, axes, false, out);
  });
}

}  // namespace gradstep
