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

// Sets of types.
typedef unsigned Types;
template <class... T>
constexpr Types types(T... type) {
  return ((1u << type) | ...);
}
inline constexpr Types kValueTypes = types(kFloat32, kFloat64);

// A checked array: memory of n contiguous, aligned, native elements.
struct ArrayView {
  void* data;
  DType type;
  int64_t n;
  int64_t bytes() const { return n * bytes_of(type); }
  bool operator==(const ArrayView&) const = default;
};

enum class Access { kRead, kWrite };

// Raises TypeError or ValueError whose message starts with label(argument, name).
ArrayView check_array(pybind11::handle object, Access access, const std::string& argument,
                      pybind11::handle name = pybind11::none(), Types accepted = kValueTypes);

// The same for an array that belongs to `model`, itself checked and called `model_argument`: same
// shape and order, and the same dtype or one of `others`.
ArrayView check_like(pybind11::handle object, pybind11::handle model, Access access,
                     const std::string& argument, const std::string& model_argument,
                     pybind11::handle name = pybind11::none(), Types others = 0);

// Whether an array that was found to be `view` is so still, and may still be accessed so: NumPy
// lets others freeze, move, shrink and retype arrays that somebody else holds.
inline bool is_still(pybind11::handle array, const ArrayView& view, Access access);

typedef std::vector<pybind11::ssize_t> Shape;

Shape shape_of(pybind11::handle array);
std::string shape_text(const Shape& shape);
int64_t product(const Shape& shape, size_t first, size_t last);

bool c_order(pybind11::handle array);
bool aligned(pybind11::handle array);

// An array in C order, and its shape.
struct Input {
  pybind11::object array;
  ArrayView view;
  Shape shape;
};
Input check_c_order(pybind11::handle object, const std::string& argument);
Input check_c_order(pybind11::handle object, Access access, const std::string& argument);
// An array in any dense order, for calls that take elements as they lie: its shape is left out.
Input check_dense(pybind11::handle object, const std::string& argument);
// The same, and like `model`, with whose shape it comes.
Input check_input_like(pybind11::handle object, const Input& model, const std::string& argument,
                       const std::string& model_argument);
// The same, of a shape of its own and the type of `model`, which messages call so.
Input check_shaped(pybind11::handle object, Access access, const std::string& argument,
                   const Shape& shape, DType type, const std::string& model_argument);

// A shape seen from one of its axes; a negative one counts from the end.
struct Axis {
  int64_t outer = 1, n = 1, inner = 1;
  size_t index = 0;
};
Axis check_axis(const Input& input, int64_t axis, const std::string& argument);

// New memory, in C order or, for an F-contiguous model, in that order.
pybind11::array new_array(DType type, const Shape& shape);
pybind11::array new_like(pybind11::handle model, DType type);

// A Python float whose value comes after work that has written: from then on nothing may fail.
class LateFloat {
 public:
  LateFloat() : object_(0.0) {}
  pybind11::handle object() const { return object_; }
  void set(double value) { reinterpret_cast<PyFloatObject*>(object_.ptr())->ob_fval = value; }

 private:
  pybind11::float_ object_;
};

// NumPy's own descriptors of our types; that of bfloat16, which another package brings, from when
// it was first met.
extern PyObject* dtypes[kAllDTypes];

inline bool is_still(pybind11::handle array, const ArrayView& view, Access access) {
  typedef pybind11::detail::npy_api Api;
  const auto* now = pybind11::detail::array_proxy(array.ptr());
  constexpr int kDense = Api::NPY_ARRAY_C_CONTIGUOUS_ | Api::NPY_ARRAY_F_CONTIGUOUS_;
  const int kept =
      Api::NPY_ARRAY_ALIGNED_ | (access == Access::kWrite ? Api::NPY_ARRAY_WRITEABLE_ : 0);
  int64_t n = 1;
  for (int i = 0; i < now->nd; ++i) n *= now->dimensions[i];
  // Another descriptor of the same type is left to the long way.
  return now->data == view.data && n == view.n && (now->flags & kept) == kept &&
         (now->flags & kDense) && now->descr == dtypes[view.type];
}

// Finds what this file needs of NumPy, once, when the module is made: to import during a call may
// give the GIL away while other threads wait for what the call holds.
void load_array_types();

}  // namespace gradstep
