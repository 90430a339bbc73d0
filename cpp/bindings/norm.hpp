// What the bindings of all norms share: the few numbers per channel or row.
#pragma once
#include "bindings/library.hpp"
#include "engine/norm/numbers.hpp"

namespace gradstep {

// An array of x's type, or float32 beside 16 bits, for weight, bias and the like, or none:
// `missing` then stands for it. What is given is added to what the call reads.
Numbers check_numbers(const Library& library, pybind11::handle object, const char* argument,
                      const Shape& shape, DType type, double missing, Memory* memory);
// The same for a bias beside a weight, of whose type it has to be where both are given.
Numbers check_bias(const Library& library, pybind11::handle object, const Numbers& weight,
                   const Shape& shape, DType type, Memory* memory);
// mean or invstd, as a forward call returned it.
double* check_statistic(pybind11::handle object, const char* argument, const Shape& shape,
                        Memory* memory);
double check_eps(pybind11::handle eps);

// New memory for weight's or bias's gradient.
struct NewNumbers {
  pybind11::object array;
  Numbers numbers;
  explicit NewNumbers(const NewArray& made) : array(made.object), numbers{made.data, made.type} {}
};

}  // namespace gradstep
