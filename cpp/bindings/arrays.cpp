#include "bindings/arrays.hpp"

#include <algorithm>

namespace py = pybind11;

namespace gradstep {

namespace {

using py::detail::npy_api;

std::string text(py::handle object) { return py::cast<std::string>(py::str(object)); }

int flags(py::handle array) { return py::detail::array_proxy(array.ptr())->flags; }

bool c_order(py::handle array) { return flags(array) & npy_api::NPY_ARRAY_C_CONTIGUOUS_; }
bool f_order(py::handle array) { return flags(array) & npy_api::NPY_ARRAY_F_CONTIGUOUS_; }

std::string kind_of(py::handle object) {
  return text(py::type::handle_of(object).attr("__name__"));
}

// -1: not a floating type of ours in native byte order.
int dtype_of(py::handle array) {
  static const PyObject* f32 = py::dtype::of<float>().release().ptr();
  static const PyObject* f64 = py::dtype::of<double>().release().ptr();
  const PyObject* descr = py::detail::array_proxy(array.ptr())->descr;
  if (descr == f32) return kFloat32;
  if (descr == f64) return kFloat64;
  const auto dtype = py::reinterpret_borrow<py::dtype>(const_cast<PyObject*>(descr));
  if (dtype.byteorder() != '=') return -1;
  if (dtype.num() == npy_api::NPY_FLOAT_) return kFloat32;
  if (dtype.num() == npy_api::NPY_DOUBLE_) return kFloat64;
  return -1;
}

bool same_shape(const py::array& a, const py::array& b) {
  return a.ndim() == b.ndim() && std::equal(a.shape(), a.shape() + a.ndim(), b.shape());
}

}  // namespace

std::string label(const std::string& argument, py::handle name) {
  if (name.is_none()) return argument;
  return argument + "[" + py::cast<std::string>(py::repr(name)) + "]";
}

ArrayView check_array(py::handle object, Access access, const std::string& argument,
                      py::handle name) {
  const auto where = [&] { return label(argument, name) + ": "; };
  if (!py::isinstance<py::array>(object))
    throw py::type_error(where() + kind_of(object) + ", expected a numpy.ndarray");
  const auto array = py::reinterpret_borrow<py::array>(object);
  static const PyObject* plain =
      py::object(py::module_::import("numpy").attr("ndarray")).release().ptr();
  if (py::type::handle_of(object).ptr() != plain && py::hasattr(object, "mask"))
    throw py::type_error(where() + "a masked array, expected a plain numpy.ndarray");
  const int type = dtype_of(object);
  if (type < 0)
    throw py::type_error(where() + "dtype " + text(array.attr("dtype").attr("str")) + " (" +
                         text(array.dtype()) + "), expected native float32 or float64");
  if (!c_order(object) && !f_order(object))
    throw py::value_error(where() + "shape " + text(array.attr("shape")) + " with strides " +
                          text(array.attr("strides")) +
                          ", expected a contiguous array (C or F order)");
  if (!(flags(object) & npy_api::NPY_ARRAY_ALIGNED_))
    throw py::value_error(where() + "unaligned memory, expected an array aligned to its elements");
  if (access == Access::kWrite && !(flags(object) & npy_api::NPY_ARRAY_WRITEABLE_))
    throw py::value_error(where() + "read-only, expected a writable array");
  return {const_cast<void*>(array.data()), static_cast<DType>(type), array.size()};
}

ArrayView check_like(py::handle object, py::handle model, Access access,
                     const std::string& argument, const std::string& model_argument,
                     py::handle name) {
  const ArrayView view = check_array(object, access, argument, name);
  const auto array = py::reinterpret_borrow<py::array>(object);
  const auto like = py::reinterpret_borrow<py::array>(model);
  const auto where = [&] { return label(argument, name) + ": "; };
  if (view.type != dtype_of(model))
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

py::array check_out(py::handle out, py::handle model, const std::string& model_argument,
                    const std::vector<py::handle>& inputs) {
  if (out.is_none()) return py::module_::import("numpy").attr("empty_like")(model);
  const ArrayView view = check_like(out, model, Access::kWrite, "out", model_argument, py::none());
  for (const py::handle input : inputs) {
    const auto array = py::reinterpret_borrow<py::array>(input);
    const bool same = array.data() == view.data && array.nbytes() == view.n * array.itemsize();
    const char* begin = static_cast<const char*>(array.data());
    const char* out_begin = static_cast<const char*>(view.data);
    const auto out_bytes = view.n * (view.type == kFloat32 ? 4 : 8);
    if (!same && begin < out_begin + out_bytes && out_begin < begin + array.nbytes())
      throw py::value_error(
          "out: partly overlaps an input, expected memory of its own or exactly " + model_argument);
  }
  return py::reinterpret_borrow<py::array>(out);
}

void WrittenMemory::add(const ArrayView& array, const std::string& argument, py::handle name) {
  if (array.n == 0) return;
  const char* begin = static_cast<const char*>(array.data);
  ranges_.push_back({begin, begin + array.n * (array.type == kFloat32 ? 4 : 8), argument,
                     py::reinterpret_borrow<py::object>(name)});
}

void WrittenMemory::finish() {
  std::stable_sort(ranges_.begin(), ranges_.end(),
                   [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < ranges_.size(); ++i) {
    const Range &a = ranges_[i - 1], &b = ranges_[i];
    if (b.begin >= a.end) continue;
    const bool same = a.begin == b.begin && a.end == b.end;
    throw py::value_error(label(b.argument, b.name) +
                          (same ? ": the same memory as " : ": overlaps ") +
                          label(a.argument, a.name) + ", expected memory of its own");
  }
}

void WrittenMemory::check_read(const ArrayView& array, const void* same,
                               const std::string& argument, py::handle name) const {
  if (array.n == 0 || array.data == same) return;
  const char* begin = static_cast<const char*>(array.data);
  const char* end = begin + array.n * (array.type == kFloat32 ? 4 : 8);
  const auto next = std::upper_bound(ranges_.begin(), ranges_.end(), begin,
                                     [](const char* at, const Range& r) { return at < r.end; });
  if (next == ranges_.end() || next->begin >= end) return;
  throw py::value_error(label(argument, name) + ": overlaps " + label(next->argument, next->name) +
                        ", which this call writes");
}

}  // namespace gradstep
