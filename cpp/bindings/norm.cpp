#include "bindings/norm.hpp"

#include <cmath>

#include "bindings/arguments.hpp"

namespace py = pybind11;

namespace gradstep {

Numbers check_numbers(const Library& library, py::handle object, const char* argument,
                      const Shape& shape, DType type, double missing, Memory* memory) {
  if (object.is_none()) return {.missing = missing};
  const Input input = library.read_shaped(object, Access::kRead, argument, shape, type, "x");
  memory->reads(input, argument);
  return {input.view.data, input.view.type, missing};
}

Numbers check_bias(const Library& library, py::handle object, const Numbers& weight,
                   const Shape& shape, DType type, Memory* memory) {
  const Numbers bias = check_numbers(library, object, "bias", shape, type, 0, memory);
  if (bias.data && weight.data && bias.type != weight.type)
    throw py::type_error(std::string("bias: dtype ") + name_of(bias.type) + ", expected " +
                         name_of(weight.type) + " as in weight");
  return bias;
}

double* check_statistic(py::handle object, const char* argument, const Shape& shape,
                        Memory* memory) {
  if (object.is_none())
    throw py::type_error(std::string(argument) +
                         ": None, expected the array that the forward call returned");
  const Input input =
      check_shaped(object, Access::kRead, argument, shape, kFloat64, "what forward returned");
  memory->reads(input, argument);
  return static_cast<double*>(input.view.data);
}

double check_eps(py::handle eps) {
  constexpr const char* kRange = "a finite number >= 0";
  const double value = check_number(eps, "eps", kRange);
  if (!(value >= 0) || std::isinf(value))
    throw py::value_error("eps: " + text(py::float_(value)) + ", expected " + kRange);
  return value;
}

}  // namespace gradstep
