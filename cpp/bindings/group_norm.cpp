// Group norm, and instance norm: every channel is a group.
#include "engine/norm/group_norm.hpp"

#include "bindings/arguments.hpp"
#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/norm.hpp"
#include "bindings/norm_calls.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

// What forward and backward share. groups: none for instance norm.
struct Groups {
  const Library& library;
  Input x;
  Shape statistics;
  Memory memory;
  GroupNorm job{};

  Groups(const Library& of, py::handle object, py::handle groups, py::handle weight,
         py::handle bias)
      : library(of), x(library.read(object, Access::kRead, "x")) {
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
    const Shape channels{job.channels};
    job.weight = check_numbers(library, weight, "weight", channels, job.type, 1, &memory);
    job.bias = check_bias(library, bias, job.weight, channels, job.type, &memory);
    job.x = x.view.data;
  }
};

py::tuple group_norm(const Library& library, py::handle x, py::handle groups, py::handle weight,
                     py::handle bias, py::handle eps, py::handle out) {
  Groups of(library, x, groups, weight, bias);
  GroupNorm& job = of.job;
  job.eps = check_eps(eps);
  const NewArray y = library.result(out, of.x, "x", &of.memory);
  py::array mean = new_array(kFloat64, of.statistics), invstd = new_array(kFloat64, of.statistics);
  py::tuple result = py::make_tuple(y.object, mean, invstd);
  job.y = y.data;
  job.mean = static_cast<double*>(mean.mutable_data());
  job.invstd = static_cast<double*>(invstd.mutable_data());
  without_gil(of.x.view.n, [&] { forward(job); });
  return result;
}

py::tuple group_norm_backward(const Library& library, py::handle dy, py::handle x,
                              py::handle groups, py::handle weight, py::handle mean,
                              py::handle invstd, py::handle out) {
  Groups of(library, x, groups, weight, py::none());
  GroupNorm& job = of.job;
  const Input gradient = library.read_like(dy, of.x, "dy", "x");
  of.memory.reads(gradient, "dy", true);
  job.mean = check_statistic(mean, "mean", of.statistics, &of.memory);
  job.invstd = check_statistic(invstd, "invstd", of.statistics, &of.memory);
  const NewArray dx = library.result(out, of.x, "x", &of.memory);
  const Shape channels{job.channels};
  const NewNumbers dweight(library.gradient(of.x, job.weight, channels, Library::kWeight));
  const NewNumbers dbias(library.gradient(of.x, job.weight, channels, Library::kBias));
  py::tuple result = py::make_tuple(dx.object, dweight.array, dbias.array);
  job.dy = gradient.view.data;
  job.y = dx.data;
  job.dweight = dweight.numbers;
  job.dbias = dbias.numbers;
  without_gil(of.x.view.n, [&] { backward(job); });
  return result;
}

// On tensors None stands for instance norm.
py::handle or_none(py::handle groups) { return groups.is_none() ? py::handle() : groups; }

py::object tensor_group_norm(py::handle call, py::handle x, py::handle groups, py::handle weight,
                             py::handle bias, py::handle eps) {
  const py::object found = on_tensors([&]() -> py::object {
    return group_norm(Tensors(), x, or_none(groups), weight, bias, eps, py::none());
  });
  return recorded(call, x, weight, bias, found);
}

}  // namespace

py::object group_norm_gradients(const NormCall& call, const NormGradients& given) {
  return on_tensors([&]() -> py::object {
    const Needs needs(given.needs);
    const Tensors tensors(needs, given.weight);
    const py::handle mean = given.statistics[0], invstd = given.statistics[1];
    const py::tuple found = group_norm_backward(tensors, given.dy, given.x, or_none(call.groups),
                                                given.weight, mean, invstd, py::none());
    return gradients(found, needs, 2);
  });
}

void define_group_norm(py::module_& m) {
  m.def("group_norm",
        [](py::handle x, py::handle groups, py::handle weight, py::handle bias, py::handle eps,
           py::handle out) { return group_norm(numpy, x, groups, weight, bias, eps, out); });
  m.def("group_norm_backward", [](py::handle dy, py::handle x, py::handle groups, py::handle weight,
                                  py::handle mean, py::handle invstd, py::handle out) {
    return group_norm_backward(numpy, dy, x, groups, weight, mean, invstd, out);
  });
  m.def("instance_norm",
        [](py::handle x, py::handle weight, py::handle bias, py::handle eps, py::handle out) {
          return group_norm(numpy, x, py::handle(), weight, bias, eps, out);
        });
  m.def("instance_norm_backward", [](py::handle dy, py::handle x, py::handle weight,
                                     py::handle mean, py::handle invstd, py::handle out) {
    return group_norm_backward(numpy, dy, x, py::handle(), weight, mean, invstd, out);
  });
  m.def("tensor_group_norm", tensor_group_norm);
}

}  // namespace gradstep
