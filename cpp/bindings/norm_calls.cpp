#include "bindings/norm_calls.hpp"

#include <utility>

#include "bindings/families.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

constexpr std::pair<const char*, NormCall::Kind> kKinds[] = {{"layer", NormCall::kLayer},
                                                             {"rms", NormCall::kRms},
                                                             {"group", NormCall::kGroup},
                                                             {"instance", NormCall::kInstance},
                                                             {"batch", NormCall::kBatch}};

NormCall::Kind kind_named(const std::string& name) {
  for (const auto& [known, kind] : kKinds)
    if (name == known) return kind;
  throw py::value_error("kind: " + name + ", expected layer, rms, group, instance or batch");
}

// Names of attributes.
struct Names {
  PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
  PyObject* call = PyUnicode_InternFromString("call");
  PyObject* stats = PyUnicode_InternFromString("stats");
  PyObject* to_save = PyUnicode_InternFromString("to_save");
  PyObject* saved = PyUnicode_InternFromString("saved_tensors");
  PyObject* needs = PyUnicode_InternFromString("needs_input_grad");
};

// First asked for when the module is made: threads that wait for the first must not have the GIL,
// or what stands for it.
const Names& names() {
  static const Names& interned = *new Names;
  return interned;
}

// Functions of torch's autograd and of ours in Python, for good.
struct Autograd {
  PyObject* grad_enabled = nullptr;
  PyObject* record = nullptr;    // (x, weight, bias, call, found) -> y
  PyObject* fallback = nullptr;  // (ctx, dy, x, weight, bias) -> gradients
} autograd;

py::object checked(PyObject* result) {
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

py::object attribute(py::handle object, PyObject* name) {
  return checked(PyObject_GetAttr(object.ptr(), name));
}

void set_attribute(py::handle object, PyObject* name, py::handle value) {
  if (PyObject_SetAttr(object.ptr(), name, value.ptr()) != 0) throw py::error_already_set();
}

bool grad_enabled() { return checked(PyObject_CallNoArgs(autograd.grad_enabled)).ptr() == Py_True; }

bool wants_grad(std::initializer_list<py::handle> tensors) {
  if (!grad_enabled()) return false;
  for (const py::handle tensor : tensors)
    if (!tensor.is_none() && attribute(tensor, names().requires_grad).ptr() == Py_True) return true;
  return false;
}

template <size_t n>
py::object called(PyObject* function, const py::handle (&given)[n]) {
  PyObject* arguments[n];
  for (size_t i = 0; i < n; ++i) arguments[i] = given[i].ptr();
  return checked(PyObject_Vectorcall(function, arguments, n, nullptr));
}

py::object gradients_of(const NormCall& call, const NormGradients& given) {
  switch (call.kind) {
    case NormCall::kLayer:
    case NormCall::kRms:
      return row_norm_gradients(call, given);
    case NormCall::kGroup:
    case NormCall::kInstance:
      return group_norm_gradients(call, given);
    case NormCall::kBatch:
      return batch_norm_gradients(call, given);
  }
  return py::none();
}

// The forward of the autograd function that records: what it keeps for backward.
py::object keep_for_backward(py::handle ctx, py::handle x, py::handle weight, py::handle bias,
                             py::handle call, const py::tuple& found) {
  const bool relu = py::cast<const NormCall&>(call).relu;
  set_attribute(ctx, names().call, call);
  set_attribute(ctx, names().stats,
                checked(PyTuple_GetSlice(found.ptr(), 1, static_cast<Py_ssize_t>(found.size()))));
  set_attribute(ctx, names().to_save, py::make_tuple(x, weight, relu ? bias : py::handle(Py_None)));
  return found[0];
}

// Its backward.
py::object norm_backward(py::handle ctx, py::handle dy) {
  const py::tuple saved = attribute(ctx, names().saved);
  const py::handle x = saved[0], weight = saved[1], bias = saved[2];
  if (!grad_enabled()) {
    const py::object call = attribute(ctx, names().call), needs = attribute(ctx, names().needs);
    const py::tuple stats = attribute(ctx, names().stats);
    py::object found =
        gradients_of(py::cast<const NormCall&>(call), {dy, x, weight, bias, stats, needs});
    if (!found.is_none()) return found;
  }
  return called(autograd.fallback, {ctx, dy, x, weight, bias});
}

}  // namespace

py::object recorded(py::handle call, py::handle x, py::handle weight, py::handle bias,
                    const py::object& found) {
  if (call.is_none() || found.is_none()) return found;
  if (!wants_grad({x, weight, bias})) return py::reinterpret_borrow<py::tuple>(found)[0];
  return called(autograd.record, {x, weight, bias, call, found});
}

void define_norm_calls(py::module_& m) {
  using py::arg;
  names();
  py::class_<NormCall>(m, "NormCall")
      .def(py::init([](const std::string& kind, py::object eps, int64_t axes, py::object groups,
                       bool training, bool relu) {
             return NormCall{kind_named(kind),  std::move(eps), axes,
                             std::move(groups), training,       relu};
           }),
           arg("kind"), arg("eps"), arg("axes") = 0, arg("groups") = py::none(),
           arg("training") = true, arg("relu") = false)
      .def_property_readonly("kind", [](const NormCall& call) { return kKinds[call.kind].first; })
      .def_readonly("eps", &NormCall::eps)
      .def_readonly("axes", &NormCall::axes)
      .def_readonly("groups", &NormCall::groups)
      .def_readonly("training", &NormCall::training)
      .def_readonly("relu", &NormCall::relu);
  m.def("recorded", recorded);
  m.def("keep_for_backward", keep_for_backward);
  m.def("norm_backward", norm_backward);
  // As a method, which a plain function would not be in a class.
  m.attr("norm_backward_method") = checked(PyInstanceMethod_New(m.attr("norm_backward").ptr()));
  m.def("norm_gradients", [](const NormCall& call, py::handle dy, py::handle x, py::handle weight,
                             py::handle bias, const py::tuple& stats, py::handle needs) {
    return gradients_of(call, {dy, x, weight, bias, stats, needs});
  });
  m.def("record_by", [](py::object grad_enabled, py::object record, py::object fallback) {
    autograd = {grad_enabled.release().ptr(), record.release().ptr(), fallback.release().ptr()};
  });
}

}  // namespace gradstep
