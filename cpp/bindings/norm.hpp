// What the bindings of all norms share: the few numbers per channel or row.
#pragma once
#include "bindings/memory.hpp"
#include "engine/norm/numbers.hpp"

namespace gradstep {

// An array of x's type for weight, bias and the like, or none: `missing` then stands for it. What
// is given is added to what the call reads.
Numbers check_numbers(pybind11::handle object, const char* argument, const Shape& shape, DType type,
                      double missing, Memory* memory);
// mean or invstd, as a forward call returned it.
double* check_statistic(pybind11::handle object, const char* argument, const Shape& shape,
                        Memory* memory);
double check_eps(pybind11::handle eps);

// New memory for weight's or bias's gradient.
struct NewNumbers {
  pybind11::array array;
  Numbers numbers;
  NewNumbers(DType type, const Shape& shape)
      : array(new_array(type, shape)), numbers{array.mutable_data(), type} {}
};

}  // namespace gradstep
