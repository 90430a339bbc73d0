// Whose arrays a call takes and returns: NumPy's, or tensors of another library.
#pragma once
#include "bindings/memory.hpp"
#include "engine/norm/numbers.hpp"

namespace gradstep {

// New memory for results.
struct NewArray {
  pybind11::object object;
  void* data;
  DType type;
};
NewArray of_numpy(pybind11::array array, DType type);

// What is read raises TypeError or ValueError, and is in C order.
class Library {
 public:
  virtual Input read(pybind11::handle object, Access access, const char* argument) const = 0;
  // Of the type and shape of `model`, which messages call `model_argument`.
  virtual Input read_like(pybind11::handle object, const Input& model, const char* argument,
                          const char* model_argument) const = 0;
  // Of a type and shape of its own; the type is said to be that of `model_argument`. float32 will
  // do for a type of 16 bits.
  virtual Input read_shaped(pybind11::handle object, Access access, const char* argument,
                            const Shape& shape, DType type, const char* model_argument) const = 0;
  // For the result of a call, like `model`: `out`, or new where that is None. Checks the overlaps
  // of all memory of the call.
  virtual NewArray result(pybind11::handle out, const Input& model, const char* model_argument,
                          Memory* memory) const = 0;
  // New for the gradient of one of the parameters of a call with the input x. like: weight, or
  // none; then the type is that of the formulas.
  enum Parameter { kWeight = 1, kBias = 2 };
  virtual NewArray gradient(const Input& x, const Numbers& like, const Shape& shape,
                            Parameter parameter) const = 0;

 protected:
  ~Library() = default;
};

extern const Library& numpy;

}  // namespace gradstep
