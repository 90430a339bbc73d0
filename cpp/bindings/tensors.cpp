#include "bindings/tensors.hpp"

#include <algorithm>

#include "bindings/arguments.hpp"
#include "bindings/exchange.hpp"
#include "bindings/families.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

// What calls on tensors need of torch, for good.
struct Torch {
  PyObject *tensor = nullptr, *parameter = nullptr;  // the types that are taken: no subclasses
  PyObject *empty_like = nullptr, *large_like = nullptr;
  int64_t large = 0;  // bytes from which large_like makes a result
  PyObject *is_tracing = nullptr, *has_transforms = nullptr, *modes = nullptr;
  PyObject* forward_mode = nullptr;   // the module that counts its levels
  PyObject* current_level = nullptr;  // and the name by which it does
} torch;

bool is_true(PyObject* value) {
  if (!value) throw py::error_already_set();
  const bool found = PyObject_IsTrue(value) == 1;
  Py_DECREF(value);
  return found;
}

bool is_plain(py::handle object) {
  auto* type = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));
  return type == torch.tensor || type == torch.parameter;
}

// Dimensions in the order in which a tensor has to lie in memory: all, or with the second last.
struct Order {
  const DLTensor& tensor;
  bool channels_last;
  int dim(int i) const {
    if (!channels_last || i == 0) return i;
    return i == tensor.ndim - 1 ? 1 : i + 1;
  }
};

bool is_dense(const Order& order) {
  const DLTensor& tensor = order.tensor;
  int64_t filled = 1;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    const int d = order.dim(i);
    if (tensor.strides && tensor.shape[d] > 1 && tensor.strides[d] != filled) return false;
    filled *= tensor.shape[d];
  }
  return true;
}

[[noreturn]] void refuse(const char* argument) {
  throw py::type_error(std::string(argument) +
                       ": expected a plain, dense, aligned tensor in memory");
}

// The tensor must not be empty.
Input read_dense(py::handle object, const char* argument, bool channels_last) {
  DLTensor tensor;
  if (!is_plain(object) || !read_floats(object.ptr(), &tensor) || !tensor.data) refuse(argument);
  const Order order{tensor, channels_last && (tensor.ndim == 4 || tensor.ndim == 5)};
  const auto type = static_cast<DType>(type_of(tensor));
  if (!is_dense(order) || reinterpret_cast<uintptr_t>(tensor.address()) % bytes_of(type) != 0)
    refuse(argument);
  Input input{py::reinterpret_borrow<py::object>(object), {tensor.address(), type, 1}, {}};
  input.shape.resize(tensor.ndim);
  for (int i = 0; i < tensor.ndim; ++i) {
    input.shape[i] = tensor.shape[order.dim(i)];
    input.view.n *= input.shape[i];
  }
  if (input.view.n == 0) refuse(argument);
  return input;
}

py::object called(PyObject* function, py::handle argument) {
  PyObject* result = PyObject_CallOneArg(function, argument.ptr());
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

}  // namespace

Needs::Needs(py::handle flags) {
  const auto given = py::cast<py::tuple>(flags);
  for (size_t i = 0; i < of.size() && i < given.size(); ++i) of[i] = given[i].ptr() == Py_True;
}

Input Tensors::read(py::handle object, Access, const char* argument) const {
  return read_dense(object, argument, channels_last_);
}

Input Tensors::read_like(py::handle object, const Input& model, const char* argument,
                         const char*) const {
  const Input input = read_dense(object, argument, channels_last_);
  if (input.view.type != model.view.type || input.shape != model.shape) refuse(argument);
  return input;
}

Input Tensors::read_shaped(py::handle object, Access, const char* argument, const Shape& shape,
                           DType type, const char*) const {
  const Input input = read_dense(object, argument, false);
  const bool fits = input.view.type == type || input.view.type == value_type(type);
  if (!fits || input.shape != shape) refuse(argument);
  return input;
}

NewArray Tensors::result(py::handle, const Input& model, const char*, Memory* memory) const {
  memory->check();
  PyObject* make = model.view.bytes() < torch.large ? torch.empty_like : torch.large_like;
  const Input input = read_dense(called(make, model.array), "new tensor", channels_last_);
  if (input.view.type != model.view.type || input.shape != model.shape)
    throw std::runtime_error("torch.empty_like: a tensor unlike its argument");
  return {input.array, input.view.data, input.view.type};
}

NewArray Tensors::gradient(const Input& x, const Numbers& like, const Shape& shape,
                           Parameter parameter) const {
  if (!needs_ || !needs_->of[parameter]) {
    const DType unused = value_type(x.view.type);
    return of_numpy(new_array(unused, shape), unused);
  }
  const py::object tensor =
      weight_.is_none() ? x.array.attr("new_empty")(shape) : called(torch.empty_like, weight_);
  const Input input = read_dense(tensor, "new tensor", false);
  if (input.view.type != (like.data ? like.type : x.view.type) || input.shape != shape)
    throw std::runtime_error("torch.empty_like: a tensor unlike its argument");
  return {input.array, input.view.data, input.view.type};
}

bool is_channels_last(py::handle x) {
  DLTensor tensor;
  return is_plain(x) && read_floats(x.ptr(), &tensor) && (tensor.ndim == 4 || tensor.ndim == 5) &&
         !is_dense({tensor, false}) && is_dense({tensor, true});
}

Shape check_sizes(py::handle sizes) {
  if (!PyTuple_Check(sizes.ptr()) && !PyList_Check(sizes.ptr()))
    throw py::type_error("sizes: " + kind_of(sizes) + ", expected a tuple");
  Shape shape;
  for (const py::handle size : sizes) shape.push_back(check_integer(size, "sizes"));
  return shape;
}

py::tuple gradients(const py::tuple& found, const Needs& needs, int others) {
  py::tuple all(needs.of.size() + others);
  for (size_t i = 0; i < all.size(); ++i)
    all[i] = i < needs.of.size() && needs.of[i] && i < found.size() ? py::object(found[i])
                                                                    : py::object(py::none());
  return all;
}

bool is_watched() {
  if (is_true(PyObject_CallNoArgs(torch.is_tracing))) return true;
  if (is_true(PyObject_CallNoArgs(torch.has_transforms))) return true;
  if (is_true(PyObject_CallNoArgs(torch.modes))) return true;
  const auto found =
      py::reinterpret_steal<py::object>(PyObject_GetAttr(torch.forward_mode, torch.current_level));
  if (!found) throw py::error_already_set();
  return PyLong_AsLong(found.ptr()) >= 0;
}

void define_tensors(py::module_& m) {
  torch.current_level = PyUnicode_InternFromString("_current_level");
  m.def("is_watched", is_watched);
  m.def("watch_by", [](py::object is_tracing, py::object has_transforms, py::object modes,
                       py::object forward_mode) {
    torch.is_tracing = is_tracing.release().ptr();
    torch.has_transforms = has_transforms.release().ptr();
    torch.modes = modes.release().ptr();
    torch.forward_mode = forward_mode.release().ptr();
  });
  m.def("use_torch", [](py::object tensor, py::object parameter, py::object empty_like,
                        py::object large_like, int64_t large) {
    torch.tensor = tensor.release().ptr();
    torch.parameter = parameter.release().ptr();
    torch.empty_like = empty_like.release().ptr();
    torch.large_like = large_like.release().ptr();
    torch.large = large;
  });
}

}  // namespace gradstep
