// What may cross the boundary: NumPy arrays as they are, never converted or copied.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "engine/dtype.hpp"

namespace gradstep {

// How messages call an array: argument['name'], argument[3], or argument alone for None.
std::string label(const std::string& argument, pybind11::handle name);

// A checked array: memory of n contiguous, aligned, native float32 or float64.
struct ArrayView {
  void* data;
  DType type;
  int64_t n;
};

enum class Access { kRead, kWrite };

// Raises TypeError or ValueError whose message starts with label(argument, name).
ArrayView check_array(pybind11::handle object, Access access, const std::string& argument,
                      pybind11::handle name);

// The same for an array that belongs to `model`, itself checked and called `model_argument`: same
// dtype, shape and order.
ArrayView check_like(pybind11::handle object, pybind11::handle model, Access access,
                     const std::string& argument, const std::string& model_argument,
                     pybind11::handle name);

// Where a result goes: a new array like `model` for None, else `out` itself, checked to be like it.
// It may be exactly one of `inputs` (then the call works in place) but not overlap one otherwise.
pybind11::array check_out(pybind11::handle out, pybind11::handle model,
                          const std::string& model_argument,
                          const std::vector<pybind11::handle>& inputs);

// The memory that a call writes, so that nothing else of the call may overlap it.
class WrittenMemory {
 public:
  // Raises ValueError when an array meets one added before.
  void add(const ArrayView& array, const std::string& argument, pybind11::handle name);
  void finish();
  // Raises ValueError when `array`, which is only read, meets written memory other than `same`, of
  // which it may be an exact alias.
  void check_read(const ArrayView& array, const void* same, const std::string& argument,
                  pybind11::handle name) const;

 private:
  struct Range {
    const char *begin, *end;
    std::string argument;
    pybind11::object name;
  };
  std::vector<Range> ranges_;  // sorted once finished
};

}  // namespace gradstep
