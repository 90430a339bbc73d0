#include "bindings/arrays.hpp"

#include <algorithm>

#include "bindings/arguments.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

using py::detail::npy_api;

PyObject *ndarray = nullptr, *empty_like = nullptr;

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
    if (dtypes[type] && dtype.num() == py::reinterpret_borrow<py::dtype>(dtypes[type]).num())
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

PyObject* dtypes[kAllDTypes] = {};

std::string label(const std::string& argument, py::handle name) {
  if (name.is_none()) return argument;
  return argument + "[" + py::cast<std::string>(py::repr(name)) + "]";
}

bool c_order(py::handle array) { return flags(array) & npy_api::NPY_ARRAY_C_CONTIGUOUS_; }
bool aligned(py::handle array) { return flags(array) & npy_api::NPY_ARRAY_ALIGNED_; }

ArrayView check_array(py::handle object, Access access, const std::string& argument,
                      py::handle name, Types accepted) {
  const auto where = [&] { return label(argument, name) + ": "; };
  if (!py::isinstance<py::array>(object))
    throw py::type_error(where() + kind_of(object) + ", expected a numpy.ndarray");
  const py::array array = borrowed(object);
  if (py::type::handle_of(object).ptr() != ndarray && py::hasattr(object, "mask"))
    throw py::type_error(where() + "a masked array, expected a plain numpy.ndarray");
  const int type = dtype_of(object);
  if (type < 0 || !(accepted & types(type)))
    throw py::type_error(where() + "dtype " + text(array.attr("dtype").attr("str")) + " (" +
                         text(array.dtype()) + "), expected native " + names_of(accepted));
  if (!c_order(object) && !f_order(object))
    throw py::value_error(where() + "shape " + text(array.attr("shape")) + " with strides " +
                          text(array.attr("strides")) +
                          ", expected a contiguous array (C or F order)");
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
  const int model_type = dtype_of(model);
  const ArrayView view =
      check_array(object, access, argument, name, kValueTypes | types(model_type) | others);
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

Input check_dense(py::handle object, const std::string& argument) {
  const ArrayView view = check_array(object, Access::kRead, argument);
  return {py::reinterpret_borrow<py::object>(object), view, {}};
}

Input check_c_order(py::handle object, const std::string& argument) {
  return check_c_order(object, Access::kRead, argument);
}

Input check_c_order(py::handle object, Access access, const std::string& argument) {
  const ArrayView view = check_array(object, access, argument);
  if (!c_order(object)) throw py::value_error(argument + ": F order, expected C order");
  return {py::reinterpret_borrow<py::object>(object), view, shape_of(object)};
}

Input check_input_like(py::handle object, const Input& model, const std::string& argument,
                       const std::string& model_argument) {
  const ArrayView view = check_like(object, model.array, Access::kRead, argument, model_argument);
  return {py::reinterpret_borrow<py::object>(object), view, model.shape};
}

Input check_shaped(py::handle object, Access access, const std::string& argument,
                   const Shape& shape, DType type, const std::string& model_argument) {
  const ArrayView view = check_array(object, access, argument);
  const Shape found = shape_of(object);
  if (found != shape)
    throw py::value_error(argument + ": shape " + shape_text(found) + ", expected " +
                          shape_text(shape));
  if (!c_order(object)) throw py::value_error(argument + ": F order, expected C order");
  if (view.type != type)
    throw py::type_error(argument + ": dtype " + name_of(view.type) + ", expected " +
                         name_of(type) + " as in " + model_argument);
  return {py::reinterpret_borrow<py::object>(object), view, found};
}

Axis check_axis(const Input& input, int64_t axis, const std::string& argument) {
  const auto count = static_cast<int64_t>(input.shape.size());
  if (axis < -count || axis >= count)
    throw py::value_error("axis: " + std::to_string(axis) + ", expected an axis of " + argument +
                          ", shape " + shape_text(input.shape));
  Axis found;
  found.index = static_cast<size_t>(axis < 0 ? axis + count : axis);
  found.outer = product(input.shape, 0, found.index);
  found.n = input.shape[found.index];
  found.inner = product(input.shape, found.index + 1, input.shape.size());
  return found;
}

py::array new_array(DType type, const Shape& shape) {
  return py::array(py::reinterpret_borrow<py::dtype>(dtypes[type]), shape);
}

py::array new_like(py::handle model, DType type) {
  if (c_order(model)) return new_array(type, shape_of(model));
  return py::handle(empty_like)(model);
}

void load_array_types() {
  const py::module_ numpy = py::module_::import("numpy");
  ndarray = py::object(numpy.attr("ndarray")).release().ptr();
  empty_like = py::object(numpy.attr("empty_like")).release().ptr();
  for (int type = 0; type < kAllDTypes; ++type)
    if (type != kBfloat16)
      dtypes[type] = py::dtype(std::string(name_of(static_cast<DType>(type)))).release().ptr();
}

}  // namespace gradstep
