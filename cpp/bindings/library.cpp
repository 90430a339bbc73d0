#include "bindings/library.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

struct NumPy final : Library {
  Input read(py::handle object, Access access, const char* argument) const override {
    return check_c_order(object, access, argument);
  }

  Input read_like(py::handle object, const Input& model, const char* argument,
                  const char* model_argument) const override {
    return check_input_like(object, model, argument, model_argument);
  }

  Input read_shaped(py::handle object, Access access, const char* argument, const Shape& shape,
                    DType type, const char* model_argument) const override {
    return check_shaped(object, access, argument, shape, type, model_argument);
  }

  NewArray result(py::handle out, const Input& model, const char* model_argument,
                  Memory* memory) const override {
    return of_numpy(memory->result(out, model, model_argument));
  }

  NewArray gradient(const Input& x, const Shape& shape, Parameter) const override {
    return of_numpy(new_array(x.view.type, shape));
  }
};

constexpr NumPy of_arrays;

}  // namespace

const Library& numpy = of_arrays;

NewArray of_numpy(py::array array) {
  void* data = array.mutable_data();
  return {std::move(array), data};
}

}  // namespace gradstep
