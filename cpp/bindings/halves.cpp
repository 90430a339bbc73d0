// Arrays from and to 16 bits, as they travel between ranks.
#include "engine/halves.hpp"

#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/memory.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

constexpr Types kHalves = types(kBfloat16, kFloat16), kFloats = types(kFloat32);

void check_shape(const Input& out, const char* argument, const Input& x) {
  if (out.shape != x.shape)
    throw py::value_error(std::string(argument) + ": shape " + shape_text(out.shape) +
                          ", expected " + shape_text(x.shape) + ", that of x");
}

void narrowed(py::handle x, py::handle out) {
  const Input from = check_c_order(x, "x", kFloats);
  const Input to = check_c_order(out, Access::kWrite, "out", kHalves);
  check_shape(to, "out", from);
  Memory memory;
  memory.reads(from, "x");
  memory.writes(to, "out");
  memory.check();
  without_gil(from.view.n, [&] {
    narrow_array(to.view.type, from.view.n, static_cast<const float*>(from.view.data),
                 to.view.data);
  });
}

void widened(py::handle x, py::handle into, bool add) {
  const Input from = check_c_order(x, "x", kHalves);
  const Input to = check_c_order(into, Access::kWrite, "into", kFloats);
  check_shape(to, "into", from);
  Memory memory;
  memory.reads(from, "x");
  memory.writes(to, "into");
  memory.check();
  without_gil(from.view.n, [&] {
    widen_array(from.view.type, from.view.n, from.view.data, static_cast<float*>(to.view.data),
                add);
  });
}

}  // namespace

void define_halves(py::module_& m) {
  m.def("narrow", narrowed);
  m.def("widen", widened);
}

}  // namespace gradstep
