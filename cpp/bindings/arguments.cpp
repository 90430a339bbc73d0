#include "bindings/arguments.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

PyObject *real = nullptr, *numpy_bool = nullptr;  // numbers.Real, numpy.bool_

py::object as_index(py::handle object, const char* argument) {
  const bool integer = !PyBool_Check(object.ptr()) && PyIndex_Check(object.ptr());
  auto number = py::reinterpret_steal<py::object>(integer ? PyNumber_Index(object.ptr()) : nullptr);
  if (number) return number;
  if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_TypeError)) throw py::error_already_set();
  PyErr_Clear();  // an array that is not a single integer
  throw py::type_error(std::string(argument) + ": " + kind_of(object) + ", expected an integer");
}

[[noreturn]] void throw_range(py::handle object, const char* argument, const char* range) {
  PyErr_Clear();
  const auto shown = py::reinterpret_steal<py::object>(PyObject_Str(object.ptr()));
  PyErr_Clear();  // thousands of digits are not converted
  throw py::value_error(std::string(argument) + ": " + (shown ? text(shown) : "a huge integer") +
                        ", expected " + range);
}

}  // namespace

std::string text(py::handle object) { return py::cast<std::string>(py::str(object)); }

std::string shown(py::handle object) {
  constexpr py::ssize_t kMost = 60;
  const auto whole = py::reinterpret_steal<py::object>(PyObject_Repr(object.ptr()));
  PyErr_Clear();  // integers of thousands of digits are not converted
  if (!whole) return kind_of(object);
  if (PyUnicode_GetLength(whole.ptr()) <= kMost) return text(whole);
  return text(py::reinterpret_steal<py::object>(PyUnicode_Substring(whole.ptr(), 0, kMost))) +
         "...";
}

std::string kind_of(py::handle object) {
  return text(py::type::handle_of(object).attr("__name__"));
}

double check_number(py::handle object, const char* argument, const char* expected) {
  const bool number = PyFloat_CheckExact(object.ptr()) ||
                      (!PyBool_Check(object.ptr()) && py::isinstance(object, real));
  if (!number)
    throw py::type_error(std::string(argument) + ": " + kind_of(object) + ", expected a number");
  const double value = PyFloat_AsDouble(object.ptr());
  if (value != -1 || !PyErr_Occurred()) return value;
  if (PyErr_ExceptionMatches(PyExc_OverflowError)) throw_range(object, argument, expected);
  if (!PyErr_ExceptionMatches(PyExc_TypeError)) throw py::error_already_set();
  PyErr_Clear();  // NumPy's time differences are numbers by their type alone
  throw py::type_error(std::string(argument) + ": " + kind_of(object) + ", expected a number");
}

int64_t check_integer(py::handle object, const char* argument, const char* expected) {
  const py::object number = as_index(object, argument);
  const int64_t value = PyLong_AsLongLong(number.ptr());
  if (value == -1 && PyErr_Occurred()) throw_range(number, argument, expected);
  return value;
}

uint64_t check_word(py::handle object, const char* argument) {
  const py::object number = as_index(object, argument);
  const uint64_t value = PyLong_AsUnsignedLongLong(number.ptr());
  if (value == ~uint64_t{0} && PyErr_Occurred())
    throw_range(number, argument, "an integer from 0 to 2**64 - 1");
  return value;
}

bool check_bool(py::handle object, const char* argument) {
  if (PyBool_Check(object.ptr())) return object.ptr() == Py_True;
  if (!py::isinstance(object, numpy_bool))
    throw py::type_error(std::string(argument) + ": " + kind_of(object) +
                         ", expected True or False");
  return PyObject_IsTrue(object.ptr()) == 1;
}

void load_number_types() {
  real = py::object(py::module_::import("numbers").attr("Real")).release().ptr();
  numpy_bool = py::object(py::module_::import("numpy").attr("bool_")).release().ptr();
}

}  // namespace gradstep
