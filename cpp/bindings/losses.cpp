// Losses with their gradients.
#include <memory>

#include "bindings/arguments.hpp"
#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/memory.hpp"
#include "engine/activation/cross_entropy.hpp"
#include "engine/activation/squared_error.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

enum LossReduction { kMean, kSum, kNone };

// The targets as an array: a lone one may be an integer.
py::object target_array(py::handle object, const Input& logits) {
  const bool number = PyLong_CheckExact(object.ptr()) || is_scalar(object);
  if (logits.shape.size() > 1 || !number) return py::reinterpret_borrow<py::object>(object);
  return number_array(object);
}

Targets check_targets(py::handle object, const Input& logits, const Axis& classes) {
  if (!py::isinstance<py::array>(object))
    throw py::type_error("targets: " + kind_of(object) +
                         ", expected a numpy.ndarray of int32 or int64");
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (is_masked(object))
    throw py::type_error("targets: a masked array, expected a plain numpy.ndarray");
  const py::dtype dtype = array.dtype();
  const bool native = dtype.kind() == 'i' && dtype.byteorder() == '=';
  if (!native || (dtype.itemsize() != 4 && dtype.itemsize() != 8))
    throw py::type_error("targets: dtype " + text(dtype) + ", expected int32 or int64");
  if (!c_order(array))
    throw py::value_error("targets: not contiguous in C order, expected an array that is");
  if (!aligned(array))
    throw py::value_error("targets: unaligned memory, expected an array aligned to its elements");
  Shape expected = logits.shape;
  expected.erase(expected.begin() + static_cast<Shape::difference_type>(classes.index));
  if (shape_of(array) != expected)
    throw py::value_error("targets: shape " + shape_text(shape_of(array)) +
                          ", expected that of logits without axis " +
                          std::to_string(classes.index) + " of " + shape_text(logits.shape));
  return {array.data(), dtype.itemsize() == 8};
}

py::tuple cross_entropy(py::handle logits, py::handle given, py::handle weight, double smoothing,
                        int64_t ignored, int reduction, py::handle out) {
  const Input input = check_c_order(logits, "logits");
  const auto dims = input.shape.size();
  if (dims == 0) throw py::value_error("logits: 0 dimensions, expected at least 1");
  const Axis classes = axis_of(input, dims == 1 ? 0 : 1);
  if (classes.n == 0) throw py::value_error("logits: no classes, expected at least 1");
  CrossEntropy work;
  work.type = input.view.type;
  work.rows = classes.outer * classes.inner;
  work.classes = classes.n;
  work.inner = classes.inner;
  work.ignored = ignored;
  work.smoothing = smoothing;
  work.averages = reduction == kMean;
  work.x = input.view.data;
  const py::object targets = target_array(given, input);
  work.targets = check_targets(targets, input, classes);
  Memory memory;
  memory.reads(input, "logits", true);
  const auto indices = py::reinterpret_borrow<py::array>(targets);
  memory.reads(indices, indices.data(), indices.nbytes(), "targets");
  if (!weight.is_none()) {
    const Input weights =
        check_shaped(weight, Access::kRead, "weight", {classes.n}, input.view.type, "logits");
    work.weights = weights.view.data;
    memory.reads(weights, "weight");
  }
  py::array dlogits = memory.result(out, input, "logits");
  work.dx = dlogits.mutable_data();
  // All that the result needs is there before anything is written.
  LateFloat loss;
  py::object result = py::reinterpret_borrow<py::object>(loss.object());
  py::array each;
  if (reduction == kNone) result = each = new_array(input.view.type, shape_of(targets));
  py::tuple both = py::make_tuple(result, dlogits);
  without_gil(input.view.n, [&] { work.prepare(); });
  if (work.wrong_row >= 0)
    throw py::value_error("targets: " + std::to_string(work.wrong_target) + " at " +
                          std::to_string(work.wrong_row) + ", expected 0 to " +
                          std::to_string(classes.n - 1) + " or ignore_index, which is " +
                          std::to_string(ignored));
  double value = 0;
  without_gil(input.view.n, [&] { value = work.run(); });
  loss.set(value);
  for (int64_t row = 0; reduction == kNone && row < work.rows; ++row)
    set_value(each.mutable_data(), work.type, row, work.losses[row]);
  return both;
}

py::tuple mse(py::handle prediction, py::handle target, py::handle out) {
  const Input input = check_dense(prediction, "prediction");
  const Input wanted = check_input_like(target, input, "target", "prediction");
  Memory memory;
  memory.reads(input, "prediction", true);
  memory.reads(wanted, "target", true);
  py::array gradient = memory.result(out, input, "prediction");
  void* to = gradient.mutable_data();
  LateFloat loss;
  py::tuple both = py::make_tuple(loss.object(), gradient);
  double value = 0;
  const ArrayView& view = input.view;
  without_gil(view.n, [&] { value = run_mse(view.type, view.n, view.data, wanted.view.data, to); });
  loss.set(value);
  return both;
}

}  // namespace

void define_losses(py::module_& m) {
  m.def("cross_entropy", cross_entropy);
  m.def("mse", mse);
}

}  // namespace gradstep
