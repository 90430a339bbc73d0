#include "bindings/library.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

struct NumPy final : Library {
  Input read(py::handle object, Access access, const char* argument) const override {
    return check_c_order(object, access, argument, kFloatTypes);
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
    return of_numpy(memory->result(out, model, model_argument), model.view.type);
  }

  NewArray gradient(const Input& x, const Numbers& like, const Shape& shape,
                    Parameter) const override {
    const DType type = like.data ? like.type : value_type(x.view.type);
    return of_numpy(new_array(type, shape), type);
  }
};

constexpr NumPy of_arrays;

}  // namespace

const Library& numpy = of_arrays;

NewArray of_numpy(py::array array, DType type) {
  void* data = array.mutable_data();
  return {std::move(array), data, type};
}

}  // namespace gradstep
