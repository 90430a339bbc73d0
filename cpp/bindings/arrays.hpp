// What may cross the boundary: NumPy arrays as they are, never converted or copied.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <atomic>
#include <string>
#include <vector>

#include "engine/halves.hpp"

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
// Those that functions take which compute in one of these.
inline constexpr Types kFloatTypes = kValueTypes | types(kBfloat16, kFloat16);

// A checked array: memory of n contiguous, aligned, native elements.
struct ArrayView {
  void* data;
  DType type;
  int64_t n;
  int64_t bytes() const { return n * bytes_of(type); }
  bool operator==(const ArrayView&) const = default;
};

enum class Access { kRead, kWrite };

// What a refused layout is told.
inline constexpr const char* kDense = "a contiguous array (C or F order)";
inline constexpr const char* kCOrder = "a contiguous array in C order";

// Raises TypeError or ValueError whose message starts with label(argument, name). layout: which
// layouts the caller takes, for the message; those that are dense pass here.
ArrayView check_array(pybind11::handle object, Access access, const std::string& argument,
                      pybind11::handle name = pybind11::none(), Types accepted = kValueTypes,
                      const std::string& layout = kDense);

// Whether the object is a number that may be read as an array without axes: a scalar of NumPy's or
// Python's float.
bool is_scalar(pybind11::handle object);
// A new array that holds a number, of the type that NumPy gives it.
pybind11::object number_array(pybind11::handle number);
// The object, or for a scalar a new array that holds it, where Python's float is of `type`, or
// float32 where that is a storage type.
pybind11::object readable(pybind11::handle object, DType type = kFloat64);

// The same where the array is to be like `model`, of `type`: only one without axes is a number.
pybind11::object readable_like(pybind11::handle object, pybind11::handle model, DType type);

// check_array for an array that belongs to `model`, itself checked and called `model_argument`:
// same shape and order, and the same dtype or one of `others`.
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

bool is_masked(pybind11::handle array);
bool c_order(pybind11::handle array);
bool aligned(pybind11::handle array);

// An array in C order, and its shape. A scalar becomes an array without axes.
struct Input {
  pybind11::object array;
  ArrayView view;
  Shape shape;
};
Input check_c_order(pybind11::handle object, const std::string& argument,
                    Types accepted = kValueTypes);
Input check_c_order(pybind11::handle object, Access access, const std::string& argument,
                    Types accepted = kValueTypes);
// An array in any dense order, for calls that take elements as they lie: its shape is left out.
Input check_dense(pybind11::handle object, const std::string& argument,
                  Types accepted = kValueTypes);
// The same, and like `model`, with whose shape it comes.
Input check_input_like(pybind11::handle object, const Input& model, const std::string& argument,
                       const std::string& model_argument);
// The same, of a shape of its own and the type of `model`, which messages call so; or float32 where
// that has 16 bits.
Input check_shaped(pybind11::handle object, Access access, const std::string& argument,
                   const Shape& shape, DType type, const std::string& model_argument);

// A shape seen from one of its axes.
struct Axis {
  int64_t outer = 1, n = 1, inner = 1;
  size_t index = 0;
};
Axis axis_of(const Input& input, size_t index);
// The same for an argument; a negative axis counts from the end.
Axis check_axis(const Input& input, pybind11::handle axis, const std::string& argument);

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
extern std::atomic<PyObject*> dtypes[kAllDTypes];
// The same; imports that package where need be, and raises ImportError without it.
pybind11::dtype dtype_object(DType type);

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
