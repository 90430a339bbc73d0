#include "bindings/exchange.hpp"

#include <pybind11/critical_section.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/constructor.hpp"
#include "bindings/families.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

// Layout of DLPackExchangeAPI, version 1.
struct ExchangeInterface {
  uint32_t major, minor;
  const void *previous, *allocate, *owning_from, *owning_to;
  int (*read)(void* object, DLTensor* tensor);
  const void* stream;
};

// What a type tells of its objects, asked once.
struct Exporter {
  py::object type;  // held: one that dies could leave its address to another
  const ExchangeInterface* api = nullptr;
  py::object is_neg;  // the method of torch that tells lazily negated views, or null
};

py::object attribute(PyObject* object, const char* name) {
  auto found = py::reinterpret_steal<py::object>(PyObject_GetAttrString(object, name));
  PyErr_Clear();
  return found;
}

// Whether operators see the memory of the type's objects as it is. A subclass of torch's tensor
// that overrides __torch_dispatch__ may hold anything.
bool is_memory(PyObject* type) {
  const auto own = attribute(type, "__torch_dispatch__");
  if (!own) return true;
  for (const py::handle base : py::handle(type).attr("__mro__")) {
    if (!base.attr("__dict__").contains("__dlpack_c_exchange_api__")) continue;
    const auto first = attribute(base.ptr(), "__torch_dispatch__");
    return first.is(own);
  }
  return false;
}

// Tensors and parameters of one library take turns: a few answers serve nearly all calls. They stay
// as they are, for other threads may be at them; what is found of yet more types goes to `found`,
// and is asked again in every call.
const Exporter& exporter_of(PyObject* type, Exporter* to) {
  static auto& known = *new std::array<Exporter, 16>;  // outlives the interpreter
  static std::atomic<size_t> count = 0;
  static OwnGil adding;
  size_t i = 0;
  for (const size_t n = count.load(std::memory_order_acquire); i < n; ++i)
    if (known[i].type.ptr() == type) return known[i];
  Exporter& found = *to;
  found.type = py::reinterpret_borrow<py::object>(type);
  const py::object capsule = attribute(type, "__dlpack_c_exchange_api__");
  if (capsule && PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api"))
    found.api = static_cast<const ExchangeInterface*>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (found.api && (found.api->major != 1 || !is_memory(type))) found.api = nullptr;
  found.is_neg = attribute(type, "is_neg");
  const OwnGil::Held held(adding);
  for (const size_t n = count.load(std::memory_order_relaxed); i < n; ++i)  // meanwhile
    if (known[i].type.ptr() == type) return known[i];
  if (i == known.size()) return found;
  known[i] = found;
  count.store(i + 1, std::memory_order_release);
  return known[i];
}

bool is_negated(const Exporter& exporter, PyObject* object) {
  if (!exporter.is_neg) return false;
  PyObject* answer = PyObject_CallOneArg(exporter.is_neg.ptr(), object);
  PyErr_Clear();
  const bool negated = answer != Py_False;
  Py_XDECREF(answer);
  return negated;
}

bool has_memory(const DLTensor& tensor) {
  return tensor.data || std::count(tensor.shape, tensor.shape + tensor.ndim, 0);
}

bool read_raw(const Exporter& exporter, PyObject* object, DLTensor* tensor) {
  if (!exporter.api) return false;
  if (exporter.api->read(object, tensor) == 0) return true;
  PyErr_Clear();
  return false;
}

void* address_of(py::handle object) {
  DLTensor tensor;
  Exporter own;
  const Exporter& exporter = exporter_of(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())), &own);
  return read_raw(exporter, object.ptr(), &tensor) ? tensor.address() : nullptr;
}

}  // namespace

bool read_tensor(PyObject* object, DLTensor* tensor) {
  Exporter own;
  const Exporter& exporter = exporter_of(reinterpret_cast<PyObject*>(Py_TYPE(object)), &own);
  return read_raw(exporter, object, tensor) && has_memory(*tensor) && !is_negated(exporter, object);
}

bool read_floats(PyObject* object, DLTensor* tensor) {
  if (!read_tensor(object, tensor) || tensor->device_type != 1) return false;
  const int type = type_of(*tensor);
  return type == kFloat32 || type == kFloat64 || is_half(static_cast<DType>(type));
}

namespace {

bool is_contiguous(const DLTensor& tensor) {
  int64_t filled = 1;
  for (int d = tensor.ndim - 1; d >= 0; --d) {
    if (tensor.strides && tensor.shape[d] > 1 && tensor.strides[d] != filled) return false;
    filled *= tensor.shape[d];
  }
  return true;
}

// Whether x is a tensor of floats, one element or more, in memory of the CPU, and the others, where
// they are not None, contiguous ones of its type.
bool are_floats(py::handle x, const py::args& others) {
  DLTensor tensor;
  if (!read_floats(x.ptr(), &tensor) || !tensor.data) return false;
  if (std::count(tensor.shape, tensor.shape + tensor.ndim, 0)) return false;
  const int type = type_of(tensor);
  for (const py::handle other : others)
    if (!other.is_none() &&
        (!read_floats(other.ptr(), &tensor) || type_of(tensor) != type || !is_contiguous(tensor)))
      return false;
  return true;
}

}  // namespace

py::object tensor_array(py::handle object) {
  DLTensor tensor;
  if (!read_tensor(object.ptr(), &tensor) || tensor.device_type != 1) return py::none();
  const int type = type_of(tensor);
  if (type < 0) return py::none();
  const int64_t size = tensor.bits / 8;
  const std::vector<py::ssize_t> shape(tensor.shape, tensor.shape + tensor.ndim);
  std::vector<py::ssize_t> strides;
  if (tensor.strides)
    for (int d = 0; d < tensor.ndim; ++d) strides.push_back(tensor.strides[d] * size);
  return py::array(dtype_object(static_cast<DType>(type)), shape, strides, tensor.address(),
                   object);
}

int type_of(const DLTensor& tensor) {
  struct Known {
    uint8_t code, bits;
    DType type;
  };
  static constexpr Known kKnown[] = {{2, 32, kFloat32}, {2, 64, kFloat64}, {4, 16, kBfloat16},
                                     {2, 16, kFloat16}, {0, 16, kInt16},   {0, 8, kInt8},
                                     {1, 8, kUint8}};
  for (const Known& known : kKnown)
    if (tensor.lanes == 1 && tensor.code == known.code && tensor.bits == known.bits)
      return known.type;
  return -1;
}

bool is_like(const DLTensor& tensor, py::handle model, DType type) {
  const auto array = py::reinterpret_borrow<py::array>(model);
  if (tensor.device_type != 1 || type_of(tensor) != type || tensor.ndim != array.ndim() ||
      reinterpret_cast<uintptr_t>(tensor.address()) % bytes_of(type) != 0)
    return false;
  int64_t filled = 1;
  for (int d = tensor.ndim - 1; d >= 0; --d) {
    const int64_t size = tensor.shape[d];
    if (size != array.shape(d)) return false;
    if (tensor.strides && size > 1 && array.size() > 0 && tensor.strides[d] != filled) return false;
    filled *= size;
  }
  return (array.flags() & py::array::c_style) != 0;
}

TensorWatch::TensorWatch(const py::list& listed, const py::dict& state, const py::list& moving)
    : listed_(py::reinterpret_steal<py::list>(PyList_GetSlice(listed.ptr(), 0, listed.size()))),
      moving_(py::reinterpret_steal<py::list>(PyList_GetSlice(moving.ptr(), 0, moving.size()))) {
  const py::scoped_critical_section held(state);
  for (const auto& [key, own] : state) {
    inner_.push_back(py::reinterpret_borrow<py::object>(own));
    if (!py::isinstance<py::dict>(own)) continue;
    const py::scoped_critical_section inside(own);
    for (const auto& [name, value] : py::reinterpret_borrow<py::dict>(own))
      values_.push_back(py::reinterpret_borrow<py::object>(value));
  }
  for (const py::handle tensor : moving_) addresses_.push_back(address_of(tensor));
}

// Looks at addresses alone: what they belong to may be gone, where it is none that is held.
bool TensorWatch::holds(const py::list& listed, const py::dict& state) const {
  const py::scoped_critical_section held(listed, state);
  if (listed.size() != listed_.size() || state.size() != inner_.size()) return false;
  for (size_t i = 0; i < listed_.size(); ++i)
    if (PyList_GET_ITEM(listed.ptr(), i) != PyList_GET_ITEM(listed_.ptr(), i)) return false;
  PyObject *key, *own, *name, *value;
  size_t inner = 0, count = 0;
  for (Py_ssize_t at = 0; PyDict_Next(state.ptr(), &at, &key, &own);) {
    if (own != inner_[inner++].ptr()) return false;
    if (!PyDict_Check(own)) continue;
    const py::scoped_critical_section inside(own);
    for (Py_ssize_t place = 0; PyDict_Next(own, &place, &name, &value);)
      if (count == values_.size() || value != values_[count++].ptr()) return false;
  }
  if (count != values_.size()) return false;
  for (size_t i = 0; i < addresses_.size(); ++i)
    if (address_of(PyList_GET_ITEM(moving_.ptr(), i)) != addresses_[i]) return false;
  return true;
}

double TensorNumbers::Number::read() const {
  return wide ? *static_cast<const double*>(data) : *static_cast<const float*>(data);
}

void TensorNumbers::Number::write(double value) const {
  if (wide)
    *static_cast<double*>(data) = value;
  else
    *static_cast<float*>(data) = static_cast<float>(value);
}

TensorNumbers::TensorNumbers(const py::list& tensors)
    : tensors_(py::reinterpret_steal<py::list>(PyList_GetSlice(tensors.ptr(), 0, tensors.size()))) {
  for (const py::handle object : tensors_) {
    DLTensor tensor;
    if (!read_tensor(object.ptr(), &tensor) || tensor.ndim != 0 || tensor.device_type != 1 ||
        tensor.code != 2 || tensor.lanes != 1 || (tensor.bits != 32 && tensor.bits != 64) ||
        !tensor.data)
      throw py::type_error("tensors: expected one float32 or float64 in CPU memory each");
    numbers_.push_back({tensor.address(), tensor.bits == 64});
    values_.push_back(numbers_.back().read());
  }
}

std::vector<double> TensorNumbers::values() const {
  const OwnGil::Held held(gil_);
  return values_;
}

bool TensorNumbers::unchanged() const {
  const OwnGil::Held held(gil_);
  for (size_t i = 0; i < numbers_.size(); ++i)
    if (numbers_[i].read() != values_[i]) return false;
  return true;
}

void TensorNumbers::write(const std::vector<double>& values) {
  if (values.size() != numbers_.size())
    throw py::value_error("values: " + std::to_string(values.size()) + ", expected " +
                          std::to_string(numbers_.size()));
  const OwnGil::Held held(gil_);
  for (size_t i = 0; i < numbers_.size(); ++i) {
    numbers_[i].write(values[i]);
    values_[i] = numbers_[i].read();
  }
}

void TensorNumbers::count(const std::optional<std::vector<int64_t>>& places) {
  const auto size = static_cast<int64_t>(numbers_.size());
  if (places)
    for (const int64_t i : *places)
      if (i < 0 || i >= size)
        throw py::index_error("places: " + std::to_string(i) + ", expected 0 to " +
                              std::to_string(size - 1));
  const OwnGil::Held held(gil_);
  const int64_t many = places ? static_cast<int64_t>(places->size()) : size;
  for (int64_t k = 0; k < many; ++k) {
    const int64_t i = places ? (*places)[k] : k;
    numbers_[i].write(values_[i] + 1);
    values_[i] = numbers_[i].read();
  }
}

void define_exchange(py::module_& m) {
  py::class_<TensorNumbers>(m, "TensorNumbers", may_lack_memory())
      .def("__init__", made_of<TensorNumbers, py::list>, py::detail::is_new_style_constructor(),
           py::arg("tensors"))
      .def("unchanged", &TensorNumbers::unchanged)
      .def("write", &TensorNumbers::write, py::arg("values"))
      .def("count", &TensorNumbers::count, py::arg("places"))
      .def_property_readonly("values", &TensorNumbers::values);
  py::class_<TensorWatch>(m, "TensorWatch", may_lack_memory())
      .def("__init__", made_of<TensorWatch, py::list, py::dict, py::list>,
           py::detail::is_new_style_constructor(), py::arg("listed"), py::arg("state"),
           py::arg("moving"))
      .def("holds", &TensorWatch::holds, py::arg("listed"), py::arg("state"));
  m.def("are_floats", are_floats, py::arg("x"));
  m.def("tensor_array", tensor_array, py::arg("tensor"));
}

}  // namespace gradstep
