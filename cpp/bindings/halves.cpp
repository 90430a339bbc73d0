// Arrays from and to 16 bits, as they travel between ranks.
#include "engine/halves.hpp"

#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/memory.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

constexpr Types kHalves = types(kBfloat16, kFloat16), kFloats = types(kFloat32);

template <class Convert>
void converted(py::handle x, Types x_types, py::handle out, const char* argument, Types out_types,
               Convert convert) {
  const Input from = check_c_order(x, "x", x_types);
  const Input to = check_c_order(out, Access::kWrite, argument, out_types);
  if (to.shape != from.shape)
    throw py::value_error(std::string(argument) + ": shape " + shape_text(to.shape) +
                          ", expected " + shape_text(from.shape) + ", that of x");
  Memory memory;
  memory.reads(from, "x");
  memory.writes(to, argument);
  memory.check();
  without_gil(from.view.n, [&] { convert(from.view, to.view); });
}

void narrowed(py::handle x, py::handle out) {
  converted(x, kFloats, out, "out", kHalves, [](const ArrayView& from, const ArrayView& to) {
    narrow_array(to.type, from.n, static_cast<const float*>(from.data), to.data);
  });
}

void widened(py::handle x, py::handle into, bool add) {
  converted(x, kHalves, into, "into", kFloats, [&](const ArrayView& from, const ArrayView& to) {
    widen_array(from.type, from.n, from.data, static_cast<float*>(to.data), add);
  });
}

}  // namespace

void define_halves(py::module_& m) {
  m.def("narrow", narrowed);
  m.def("widen", widened);
}

}  // namespace gradstep
