#include "bindings/arrays.hpp"

#include <algorithm>

#include "bindings/arguments.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

using py::detail::npy_api;

PyObject *ndarray = nullptr, *generic = nullptr, *asarray = nullptr, *empty_like = nullptr;

const py::detail::PyArray_Proxy* proxy(py::handle array) {
  return py::detail::array_proxy(array.ptr());
}

int flags(py::handle array) { return proxy(array)->flags; }

bool f_order(py::handle array) { return flags(array) & npy_api::NPY_ARRAY_F_CONTIGUOUS_; }

py::array borrowed(py::handle array) { return py::reinterpret_borrow<py::array>(array); }

bool is_bfloat16(const py::dtype& dtype) {
  return dtype.kind() == 'V' && dtype.itemsize() == 2 && text(dtype.attr("name")) == "bfloat16";
}

// -1: no type of ours in native byte order.
int dtype_of(py::handle array) {
  PyObject* descr = proxy(array)->descr;
  for (int type = 0; type < kAllDTypes; ++type)
    if (descr == dtypes[type]) return type;
  const auto dtype = py::reinterpret_borrow<py::dtype>(descr);
  if (dtype.byteorder() != '=' && dtype.byteorder() != '|') return -1;
  for (int type = 0; type < kAllDTypes; ++type)
    if (PyObject* known = dtypes[type];
        known && dtype.num() == py::reinterpret_borrow<py::dtype>(known).num())
      return type;
  if (dtypes[kBfloat16] || !is_bfloat16(dtype)) return -1;
  dtypes[kBfloat16] = py::object(dtype).release().ptr();
  return kBfloat16;
}

std::string names_of(Types accepted) {
  std::string names;
  for (int type = 0; type < kAllDTypes; ++type) {
    if (!(accepted & types(type))) continue;
    accepted &= ~types(type);
    names += (names.empty() ? ""
              : accepted    ? ", "
                            : " or ") +
             std::string(name_of(static_cast<DType>(type)));
  }
  return names;
}

bool same_shape(py::handle a, py::handle b) {
  const auto *x = proxy(a), *y = proxy(b);
  return x->nd == y->nd && std::equal(x->dimensions, x->dimensions + x->nd, y->dimensions);
}

}  // namespace

std::atomic<PyObject*> dtypes[kAllDTypes] = {};

std::string label(const std::string& argument, py::handle name) {
  if (name.is_none()) return argument;
  return argument + "[" + py::cast<std::string>(py::repr(name)) + "]";
}

bool is_masked(py::handle array) {
  return py::type::handle_of(array).ptr() != ndarray && py::hasattr(array, "mask");
}
bool c_order(py::handle array) { return flags(array) & npy_api::NPY_ARRAY_C_CONTIGUOUS_; }
bool aligned(py::handle array) { return flags(array) & npy_api::NPY_ARRAY_ALIGNED_; }

bool is_scalar(py::handle object) {
  return PyFloat_CheckExact(object.ptr()) || py::isinstance(object, generic);
}

py::object number_array(py::handle number) { return py::handle(asarray)(number); }

py::object readable(py::handle object, DType type) {
  if (PyFloat_CheckExact(object.ptr()))
    return py::handle(asarray)(object,
                               py::handle(dtypes[type == kFloat64 ? type : kFloat32].load()));
  if (py::isinstance(object, generic)) return number_array(object);
  return py::reinterpret_borrow<py::object>(object);
}

ArrayView check_array(py::handle object, Access access, const std::string& argument,
                      py::handle name, Types accepted, const std::string& layout) {
  const auto where = [&] { return label(argument, name) + ": "; };
  if (!py::isinstance<py::array>(object))
    throw py::type_error(where() + kind_of(object) + ", expected a numpy.ndarray");
  const py::array array = borrowed(object);
  if (is_masked(object))
    throw py::type_error(where() + "a masked array, expected a plain numpy.ndarray");
  const int type = dtype_of(object);
  if (type < 0 || !(accepted & types(type)))
    throw py::type_error(where() + "dtype " + text(array.attr("dtype").attr("str")) + " (" +
                         text(array.dtype()) + "), expected native " + names_of(accepted));
  if (!c_order(object) && !f_order(object))
    throw py::value_error(where() + "shape " + text(array.attr("shape")) + " with strides " +
                          text(array.attr("strides")) + ", expected " + layout);
  if (!aligned(object))
    throw py::value_error(where() + "unaligned memory, expected an array aligned to its elements");
  if (access == Access::kWrite && !(flags(object) & npy_api::NPY_ARRAY_WRITEABLE_))
    throw py::value_error(where() + "read-only, expected a writable array");
  if (!array.data() && array.size() > 0)
    throw py::value_error(where() + "no memory under its elements, expected an array that has");
  return {const_cast<void*>(array.data()), static_cast<DType>(type), array.size()};
}

ArrayView check_like(py::handle object, py::handle model, Access access,
                     const std::string& argument, const std::string& model_argument,
                     py::handle name, Types others) {
  std::string layout = "a contiguous array";
  if (!c_order(model) || !f_order(model))
    layout += (c_order(model) ? " in C order as in " : " in F order as in ") + model_argument;
  const int model_type = dtype_of(model);
  const ArrayView view =
      check_array(object, access, argument, name, kValueTypes | types(model_type) | others, layout);
  const py::array array = borrowed(object), like = borrowed(model);
  const auto where = [&] { return label(argument, name) + ": "; };
  if (view.type != model_type && !(others & types(view.type)))
    throw py::type_error(where() + "dtype " + text(array.dtype()) + ", expected " +
                         text(like.dtype()) + " as in " + model_argument);
  if (!same_shape(array, like))
    throw py::value_error(where() + "shape " + text(array.attr("shape")) + ", expected " +
                          text(like.attr("shape")) + " as in " + model_argument);
  const bool same_order =
      (c_order(object) && c_order(model)) || (f_order(object) && f_order(model));
  if (!same_order)
    throw py::value_error(where() + (c_order(object) ? "C" : "F") + " order, expected " +
                          (c_order(model) ? "C" : "F") + " order as in " + model_argument);
  return view;
}

py::object readable_like(py::handle object, py::handle model, DType type) {
  if (proxy(model)->nd == 0) return readable(object, type);
  return py::reinterpret_borrow<py::object>(object);
}

Shape shape_of(py::handle array) {
  const auto* now = proxy(array);
  return {now->dimensions, now->dimensions + now->nd};
}

std::string shape_text(const Shape& shape) {
  std::string all;
  for (const py::ssize_t size : shape) all += (all.empty() ? "" : ", ") + std::to_string(size);
  return "(" + all + (shape.size() == 1 ? ",)" : ")");
}

int64_t product(const Shape& shape, size_t first, size_t last) {
  int64_t n = 1;
  for (size_t i = first; i < last; ++i) n *= shape[i];
  return n;
}

Input check_dense(py::handle object, const std::string& argument, Types accepted) {
  py::object array = readable(object);
  const ArrayView view = check_array(array, Access::kRead, argument, py::none(), accepted);
  return {std::move(array), view, {}};
}

Input check_c_order(py::handle object, const std::string& argument, Types accepted) {
  return check_c_order(object, Access::kRead, argument, accepted);
}

Input check_c_order(py::handle object, Access access, const std::string& argument, Types accepted) {
  py::object array =
      access == Access::kRead ? readable(object) : py::reinterpret_borrow<py::object>(object);
  const ArrayView view = check_array(array, access, argument, py::none(), accepted, kCOrder);
  if (!c_order(array)) throw py::value_error(argument + ": F order, expected C order");
  Shape shape = shape_of(array);
  return {std::move(array), view, std::move(shape)};
}

Input check_input_like(py::handle object, const Input& model, const std::string& argument,
                       const std::string& model_argument) {
  py::object array = readable_like(object, model.array, model.view.type);
  const ArrayView view = check_like(array, model.array, Access::kRead, argument, model_argument);
  return {std::move(array), view, model.shape};
}

Input check_shaped(py::handle object, Access access, const std::string& argument,
                   const Shape& shape, DType type, const std::string& model_argument) {
  const bool reads_number = access == Access::kRead && shape.empty();
  py::object array =
      reads_number ? readable(object, type) : py::reinterpret_borrow<py::object>(object);
  const Types accepted = kValueTypes | types(type);
  const ArrayView view = check_array(array, access, argument, py::none(), accepted, kCOrder);
  const Shape found = shape_of(array);
  if (found != shape)
    throw py::value_error(argument + ": shape " + shape_text(found) + ", expected " +
                          shape_text(shape));
  if (!c_order(array)) throw py::value_error(argument + ": F order, expected C order");
  if (view.type != type && view.type != value_type(type))
    throw py::type_error(argument + ": dtype " + name_of(view.type) + ", expected " +
                         name_of(type) + " as in " + model_argument +
                         (is_half(type) ? ", or float32" : ""));
  return {std::move(array), view, found};
}

Axis check_axis(const Input& input, py::handle given, const std::string& argument) {
  const int64_t axis = check_integer(given, "axis");
  const auto count = static_cast<int64_t>(input.shape.size());
  if (axis < -count || axis >= count)
    throw py::value_error("axis: " + std::to_string(axis) + ", expected an axis of " + argument +
                          ", shape " + shape_text(input.shape));
  return axis_of(input, static_cast<size_t>(axis < 0 ? axis + count : axis));
}

Axis axis_of(const Input& input, size_t index) {
  Axis found;
  found.index = index;
  found.outer = product(input.shape, 0, found.index);
  found.n = input.shape[found.index];
  found.inner = product(input.shape, found.index + 1, input.shape.size());
  return found;
}

py::dtype dtype_object(DType type) {
  if (!dtypes[type]) {
    const py::object found =
        py::module_::import("gradstep.arrays").attr("bfloat16")("torch.bfloat16");
    dtypes[type] = py::object(found).release().ptr();
  }
  return py::reinterpret_borrow<py::dtype>(dtypes[type].load());
}

py::array new_array(DType type, const Shape& shape) { return py::array(dtype_object(type), shape); }

py::array new_like(py::handle model, DType type) {
  if (c_order(model)) return new_array(type, shape_of(model));
  return py::handle(empty_like)(model);
}

void load_array_types() {
  const py::module_ numpy = py::module_::import("numpy");
  ndarray = py::object(numpy.attr("ndarray")).release().ptr();
  generic = py::object(numpy.attr("generic")).release().ptr();
  asarray = py::object(numpy.attr("asarray")).release().ptr();
  empty_like = py::object(numpy.attr("empty_like")).release().ptr();
  for (int type = 0; type < kAllDTypes; ++type)
    if (type != kBfloat16)
      dtypes[type] = py::dtype(std::string(name_of(static_cast<DType>(type)))).release().ptr();
}

}  // namespace gradstep
