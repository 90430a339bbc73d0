#include "bindings/dropout.hpp"

#include "bindings/arrays.hpp"
#include "bindings/gil.hpp"
#include "engine/dispatch.hpp"
#include "engine/dropout/dropout.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

std::string kind_of(py::handle object) {
  return py::cast<std::string>(py::type::handle_of(object).attr("__name__"));
}

std::string text(py::handle object) { return py::cast<std::string>(py::str(object)); }

double check_probability(py::handle p) {
  static const PyObject* real =
      py::object(py::module_::import("numbers").attr("Real")).release().ptr();
  const bool number = PyFloat_CheckExact(p.ptr()) ||
                      (!PyBool_Check(p.ptr()) && py::isinstance(p, const_cast<PyObject*>(real)));
  if (!number) throw py::type_error("p: " + kind_of(p) + ", expected a number");
  const double value = PyFloat_AsDouble(p.ptr());
  const bool failed = value == -1 && PyErr_Occurred();
  if (failed) PyErr_Clear();  // an integer beyond the largest double
  if (failed || !(value >= 0 && value <= 1))
    throw py::value_error("p: " + text(p) + ", expected a number in [0, 1]");
  return value;
}

uint64_t check_word(py::handle object, const char* argument) {
  const std::string where = std::string(argument) + ": ";
  if (PyBool_Check(object.ptr()) || !PyIndex_Check(object.ptr()))
    throw py::type_error(where + kind_of(object) + ", expected an integer");
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!number) {  // an array that is not a single integer
    PyErr_Clear();
    throw py::type_error(where + kind_of(object) + ", expected an integer");
  }
  const uint64_t value = PyLong_AsUnsignedLongLong(number.ptr());
  if (value == ~uint64_t{0} && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::value_error(where + text(object) + ", expected an integer from 0 to 2**64 - 1");
  }
  return value;
}

// The arrays of a call and what keeps the result alive.
struct Checked {
  DropoutArrays arrays;
  py::array out;
};

// C order, because the mask counts elements in that order.
Checked check_arrays(py::handle x, py::handle out, const std::string& argument) {
  const ArrayView view = check_array(x, Access::kRead, argument, py::none());
  const auto array = py::reinterpret_borrow<py::array>(x);
  if (!(array.flags() & py::array::c_style))
    throw py::value_error(argument + ": F order, expected C order, in which the mask counts");
  py::array result = check_out(out, x, argument, {x});
  return {{view.type, view.n, view.data, result.mutable_data()}, result};
}

py::array apply(py::handle x, py::handle p, py::handle seed, py::handle offset, py::handle out,
                const std::string& argument, uint64_t first) {
  const DropoutRule rule =
      dropout_rule(check_probability(p), check_word(seed, "seed"), check_word(offset, "offset"));
  const Checked checked = check_arrays(x, out, argument);
  without_gil(checked.arrays.n, [&] { dropout(rule, checked.arrays, first); });
  return checked.out;
}

py::array apply_alpha(py::handle x, py::handle p, py::handle seed, py::handle offset,
                      py::handle out, bool backward) {
  const DropoutRule rule = alpha_dropout_rule(check_probability(p), check_word(seed, "seed"),
                                              check_word(offset, "offset"));
  const Checked checked = check_arrays(x, out, backward ? "dy" : "x");
  without_gil(checked.arrays.n, [&] {
    if (backward)
      dropout(rule, checked.arrays, 0);
    else
      alpha_dropout(rule, checked.arrays, 0);
  });
  return checked.out;
}

// Samples are along axis 0, channels along `axis`; None: a sample is one channel.
DropoutGroups check_groups(const py::array& x, py::handle axis, const std::string& argument) {
  const auto ndim = static_cast<int64_t>(x.ndim());
  const bool whole = axis.is_none();
  if (ndim < (whole ? 1 : 2))
    throw py::value_error(argument + ": shape " + text(x.attr("shape")) + ", expected at least " +
                          (whole ? "1 dimension (samples)" : "2 dimensions (samples, channels)"));
  if (whole) return {x.shape(0), 1, 1, x.shape(0) ? x.size() / x.shape(0) : 0};
  if (PyBool_Check(axis.ptr()) || !PyIndex_Check(axis.ptr()))
    throw py::type_error("axis: " + kind_of(axis) + ", expected an integer");
  const Py_ssize_t given = PyNumber_AsSsize_t(axis.ptr(), nullptr);  // clipped when out of range
  if (given == -1 && PyErr_Occurred()) throw py::error_already_set();
  const int64_t channels = given < 0 ? given + ndim : given;
  if (channels < 1 || channels >= ndim)
    throw py::value_error("axis: " + text(axis) + ", expected the axis of the channels, 1 to " +
                          std::to_string(ndim - 1) + " or negative, not that of the samples");
  DropoutGroups groups{x.shape(0), 1, x.shape(channels), 1};
  for (int64_t i = 1; i < ndim; ++i)
    if (i != channels) (i < channels ? groups.repeats : groups.run) *= x.shape(i);
  return groups;
}

py::array apply_groups(py::handle x, py::handle p, py::handle axis, py::handle seed,
                       py::handle offset, py::handle out, const std::string& argument) {
  const DropoutRule rule =
      dropout_rule(check_probability(p), check_word(seed, "seed"), check_word(offset, "offset"));
  check_array(x, Access::kRead, argument, py::none());
  const DropoutGroups groups = check_groups(py::reinterpret_borrow<py::array>(x), axis, argument);
  const Checked checked = check_arrays(x, out, argument);
  without_gil(checked.arrays.n, [&] { group_dropout(rule, checked.arrays, groups); });
  return checked.out;
}

// Fills `keep`, a new C-order array: n bytes, or as many as hold n bits.
void fill_mask(const py::array& keep, int64_t n, py::handle p, py::handle seed, py::handle offset,
               bool packed, uint64_t first) {
  const DropoutRule rule =
      dropout_rule(check_probability(p), check_word(seed, "seed"), check_word(offset, "offset"));
  auto* bytes = static_cast<uint8_t*>(const_cast<void*>(keep.data()));
  without_gil(n, [&] { dropout_mask(rule, first, n, packed, bytes); });
}

py::tuple philox_block(uint64_t seed, uint64_t offset, uint64_t block) {
  uint32_t words[kDropoutTileBlocks][4];
  active_table().dropout->words(seed, offset, block / kDropoutTileBlocks, words);
  const uint32_t* found = words[block % kDropoutTileBlocks];
  return py::make_tuple(found[0], found[1], found[2], found[3]);
}

}  // namespace

void define_dropout(py::module_& m) {
  using py::arg;
  m.def("dropout", apply, arg("x"), arg("p"), arg("seed"), arg("offset"), arg("out"),
        arg("argument"), arg("first") = 0);
  m.def("alpha_dropout", apply_alpha, arg("x"), arg("p"), arg("seed"), arg("offset"), arg("out"),
        arg("backward"));
  m.def("group_dropout", apply_groups, arg("x"), arg("p"), arg("axis"), arg("seed"), arg("offset"),
        arg("out"), arg("argument"));
  m.def("dropout_mask", fill_mask, arg("keep"), arg("n"), arg("p"), arg("seed"), arg("offset"),
        arg("packed"), arg("first") = 0);
  m.def("philox_block", philox_block, arg("seed"), arg("offset"), arg("block"));
}

}  // namespace gradstep
