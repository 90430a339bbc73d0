// Constructors of Python classes that may run out of memory.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>
#include <new>

namespace gradstep {

// In place of pybind11::init<Arguments...>(): that registers the new instance where nothing catches
// an allocation that fails, and ends the process. type.def("__init__", made_of<Class,
// Arguments...>, pybind11::detail::is_new_style_constructor(), ...)
template <class Class, class... Arguments>
void made_of(pybind11::detail::value_and_holder& place, Arguments... arguments) {
  auto made = std::make_unique<Class>(std::move(arguments)...);
  place.value_ptr() = made.get();
  try {
    place.type->init_instance(place.inst, nullptr);
  } catch (...) {
    place.value_ptr() = nullptr;
    throw;
  }
  made.release();
}

// Makes the empty instance, as pybind11 does but for its belief that there is always memory.
inline PyObject* new_instance(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* self = type->tp_alloc(type, 0);
  if (!self) return nullptr;
  try {
    reinterpret_cast<pybind11::detail::instance*>(self)->allocate_layout();
    return self;
  } catch (const std::bad_alloc&) {
    type->tp_free(self);
    Py_DECREF(type);
    return PyErr_NoMemory();
  }
}

// For class_: see above.
inline pybind11::custom_type_setup may_lack_memory() {
  return pybind11::custom_type_setup(
      [](PyHeapTypeObject* type) { type->ht_type.tp_new = new_instance; });
}

}  // namespace gradstep
