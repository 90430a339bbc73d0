// Tensors of another library read without a Python call: DLPack's C exchange interface.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "bindings/gil.hpp"
#include "engine/halves.hpp"

namespace gradstep {

// Layout of DLTensor in DLPack 1 (dlpack.h). Strides are in elements.
struct DLTensor {
  void* data;
  int32_t device_type, device_id;  // device_type 1: the CPU
  int32_t ndim;
  uint8_t code, bits;  // code 0: integers, 1: unsigned ones, 2: floating point, 4: bfloat16
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;

  void* address() const { return static_cast<char*>(data) + byte_offset; }
};

// Fills `tensor`, valid as long as the object is and nobody changes it. False where the object's
// type has no such interface or refuses, and where its elements are not what lies in its memory:
// torch's lazily negated views and zeros, fake tensors. No Python error is left behind.
bool read_tensor(PyObject* object, DLTensor* tensor);

// The same, and whether its elements are floats of a type that functions take, in memory of the
// CPU.
bool read_floats(PyObject* object, DLTensor* tensor);

// A NumPy array over the memory of a tensor on the CPU, of one of our types, which it keeps alive;
// None where that cannot be read. Raises ImportError for bfloat16 without its package. torch's own
// `numpy()` would forbid the tensor to be resized.
pybind11::object tensor_array(pybind11::handle object);

// The DType of its elements, or -1.
int type_of(const DLTensor& tensor);

// Whether a tensor is what NumPy's array `model`, C-contiguous, is: shape, order, CPU memory; and
// of `type`.
bool is_like(const DLTensor& tensor, pybind11::handle model, DType type);

// Remembers tensors, and dicts that hold them, to tell whether they are still the same objects at
// the same addresses.
class TensorWatch {
 public:
  // listed: objects in order. state: a dict of dicts whose values are remembered too, in order.
  // moving: tensors among them whose memory must stay where it is.
  TensorWatch(const pybind11::list& listed, const pybind11::dict& state,
              const pybind11::list& moving);
  bool holds(const pybind11::list& listed, const pybind11::dict& state) const;

 private:
  pybind11::list listed_, moving_;
  std::vector<pybind11::object> inner_, values_;  // held, so that no address is used again
  std::vector<void*> addresses_;
};

// Tensors of one number each that count for a plan: whether they are as we left them, and the next
// values. Nobody else may give these very tensors other memory.
class TensorNumbers {
 public:
  // Raises TypeError for what is not one float32 or float64 in CPU memory.
  explicit TensorNumbers(const pybind11::list& tensors);
  bool unchanged() const;
  std::vector<double> values() const;
  void write(const std::vector<double>& values);
  // Adds one to those at these places, or to all.
  void count(const std::optional<std::vector<int64_t>>& places);

 private:
  struct Number {
    void* data;
    bool wide;  // float64
    double read() const;
    void write(double value) const;
  };

  mutable OwnGil gil_;
  pybind11::list tensors_;
  std::vector<Number> numbers_;
  std::vector<double> values_;
};

}  // namespace gradstep
