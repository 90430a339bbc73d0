// Group norm, and instance norm: every channel is a group.
#include "engine/norm/group_norm.hpp"

#include "bindings/arguments.hpp"
#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/norm.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

// What forward and backward share. groups: none for instance norm.
struct Groups {
  Input x;
  Shape statistics;
  Memory memory;
  GroupNorm job{};

  Groups(py::handle object, py::handle groups, py::handle weight, py::handle bias)
      : x(check_c_order(object, "x")) {
    if (x.shape.size() < 2)
      throw py::value_error("x: shape " + shape_text(x.shape) + ", expected 2 axes or more");
    job.type = x.view.type;
    job.samples = x.shape[0];
    job.channels = x.shape[1];
    job.size = product(x.shape, 2, x.shape.size());
    job.groups = groups ? check_integer(groups, "groups") : job.channels;
    if (groups && (job.groups < 1 || job.channels % job.groups))
      throw py::value_error("groups: " + std::to_string(job.groups) + ", expected a divisor of " +
                            std::to_string(job.channels) + ", the channels of x");
    const bool single = job.groups > 0 && job.channels / job.groups * job.size == 1;
    if (single || (!groups && job.size == 1))
      throw py::value_error("x: shape " + shape_text(x.shape) +
                            ", expected more than one value per " + (groups ? "group" : "channel") +
                            " of a sample");
    statistics = {job.samples, job.groups};
    memory.reads(x, "x", true);
    job.weight = check_numbers(weight, "weight", {job.channels}, job.type, 1, &memory);
    job.bias = check_numbers(bias, "bias", {job.channels}, job.type, 0, &memory);
    job.x = x.view.data;
  }
};

py::tuple group_norm(py::handle x, py::handle groups, py::handle weight, py::handle bias,
                     py::handle eps, py::handle out) {
  Groups of(x, groups, weight, bias);
  GroupNorm& job = of.job;
  job.eps = check_eps(eps);
  py::array y = of.memory.result(out, of.x, "x");
  py::array mean = new_array(kFloat64, of.statistics), invstd = new_array(kFloat64, of.statistics);
  py::tuple result = py::make_tuple(y, mean, invstd);
  job.y = y.mutable_data();
  job.mean = static_cast<double*>(mean.mutable_data());
  job.invstd = static_cast<double*>(invstd.mutable_data());
  without_gil(of.x.view.n, [&] { forward(job); });
  return result;
}

py::tuple group_norm_backward(py::handle dy, py::handle x, py::handle groups, py::handle weight,
                              py::handle mean, py::handle invstd, py::handle out) {
  Groups of(x, groups, weight, py::none());
  GroupNorm& job = of.job;
  const Input gradient = check_input_like(dy, of.x, "dy", "x");
  of.memory.reads(gradient, "dy", true);
  job.mean = check_statistic(mean, "mean", of.statistics, &of.memory);
  job.invstd = check_statistic(invstd, "invstd", of.statistics, &of.memory);
  py::array dx = of.memory.result(out, of.x, "x");
  const NewNumbers dweight(job.type, {job.channels}), dbias(job.type, {job.channels});
  py::tuple result = py::make_tuple(dx, dweight.array, dbias.array);
  job.dy = gradient.view.data;
  job.y = dx.mutable_data();
  job.dweight = dweight.numbers;
  job.dbias = dbias.numbers;
  without_gil(of.x.view.n, [&] { backward(job); });
  return result;
}

}  // namespace

void define_group_norm(py::module_& m) {
  m.def("group_norm", group_norm);
  m.def("group_norm_backward", group_norm_backward);
  m.def("instance_norm",
        [](py::handle x, py::handle weight, py::handle bias, py::handle eps, py::handle out) {
          return group_norm(x, py::handle(), weight, bias, eps, out);
        });
  m.def("instance_norm_backward", [](py::handle dy, py::handle x, py::handle weight,
                                     py::handle mean, py::handle invstd, py::handle out) {
    return group_norm_backward(dy, x, py::handle(), weight, mean, invstd, out);
  });
}

}  // namespace gradstep
