// Activations and losses: checks, then the plan without the GIL where the arrays are large.
#include "bindings/activation.hpp"

#include <optional>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/gil.hpp"
#include "engine/activation/elementwise.hpp"
#include "engine/activation/maxout.hpp"
#include "engine/activation/prelu.hpp"
#include "engine/activation/softmax.hpp"
#include "engine/activation/squared_error.hpp"
#include "engine/dispatch.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

py::array borrowed(py::handle array) { return py::reinterpret_borrow<py::array>(array); }

bool c_order(py::handle array) { return borrowed(array).flags() & py::array::c_style; }

std::string shape_of(py::handle array) {
  return py::cast<std::string>(py::str(array.attr("shape")));
}

py::array new_array(DType type, const std::vector<py::ssize_t>& shape) {
  static const py::handle f32 = py::dtype::of<float>().release();
  static const py::handle f64 = py::dtype::of<double>().release();
  return py::array(py::reinterpret_borrow<py::dtype>(type == kFloat32 ? f32 : f64), shape);
}

// Like check_out, but quick about a new array in C order.
py::array output(py::handle out, py::handle model, DType type, const std::string& argument,
                 const std::vector<py::handle>& inputs) {
  if (!out.is_none() || !c_order(model)) return check_out(out, model, argument, inputs);
  const py::array array = borrowed(model);
  return new_array(type, {array.shape(), array.shape() + array.ndim()});
}

ArrayView check_c_order(py::handle object, const std::string& argument) {
  const ArrayView view = check_array(object, Access::kRead, argument, py::none());
  if (!c_order(object)) throw py::value_error(argument + ": F order, expected C order");
  return view;
}

// A shape seen from one of its axes.
struct Axis {
  int64_t outer = 1, n = 1, inner = 1;
  py::ssize_t index = 0;
};

Axis check_axis(py::handle object, int64_t axis, const std::string& argument) {
  const py::array array = borrowed(object);
  const int64_t count = array.ndim();
  if (axis < -count || axis >= count)
    throw py::value_error("axis: " + std::to_string(axis) + ", expected an axis of " + argument +
                          ", shape " + shape_of(object));
  Axis found;
  found.index = axis < 0 ? axis + count : axis;
  for (py::ssize_t i = 0; i < count; ++i)
    (i < found.index ? found.outer : i == found.index ? found.n : found.inner) *= array.shape(i);
  return found;
}

py::array activate(int index, py::handle x, py::handle out, double parameter) {
  const ArrayView view = check_array(x, Access::kRead, "x", py::none());
  py::array y = output(out, x, view.type, "x", {x});
  void* to = y.mutable_data();
  without_gil(view.n, [&] { run_activation(index, view.type, parameter, view.n, view.data, to); });
  return y;
}

py::array activate_backward(int index, py::handle dy, py::handle saved, const std::string& argument,
                            py::handle out, double parameter) {
  const ArrayView view = check_array(saved, Access::kRead, argument, py::none());
  const ArrayView gradient = check_like(dy, saved, Access::kRead, "dy", argument, py::none());
  py::array dx = output(out, saved, view.type, argument, {dy, saved});
  void* to = dx.mutable_data();
  without_gil(view.n, [&] {
    run_activation_backward(index, view.type, parameter, view.n, gradient.data, view.data, to);
  });
  return dx;
}

SoftmaxJob softmax_job(SoftmaxKind kind, const Axis& axis, const void* x, const void* dy, void* y) {
  SoftmaxJob job{};
  job.kind = kind;
  job.rows = axis.outer * axis.inner;
  job.n = axis.n;
  job.inner = axis.inner;
  job.x = x;
  job.dy = dy;
  job.y = y;
  return job;
}

py::array softmax(bool log_form, py::handle x, int64_t axis, py::handle out) {
  const ArrayView view = check_c_order(x, "x");
  const Axis along = check_axis(x, axis, "x");
  py::array y = output(out, x, view.type, "x", {x});
  const SoftmaxJob job =
      softmax_job(log_form ? kLogSoftmax : kSoftmax, along, view.data, view.data, y.mutable_data());
  without_gil(view.n, [&] { run_softmax(job, view.type); });
  return y;
}

py::array softmax_backward(bool log_form, py::handle dy, py::handle y, int64_t axis,
                           py::handle out) {
  const ArrayView view = check_c_order(y, "y");
  const ArrayView gradient = check_like(dy, y, Access::kRead, "dy", "y", py::none());
  const Axis along = check_axis(y, axis, "y");
  py::array dx = output(out, y, view.type, "y", {dy, y});
  const SoftmaxJob job = softmax_job(log_form ? kLogSoftmaxBackward : kSoftmaxBackward, along,
                                     view.data, gradient.data, dx.mutable_data());
  without_gil(view.n, [&] { run_softmax(job, view.type); });
  return dx;
}

// Fills targets, wide_targets; the targets have the shape of the logits without the class axis.
void check_targets(SoftmaxJob* job, py::handle targets, py::handle logits, const Axis& classes) {
  if (!py::isinstance<py::array>(targets))
    throw py::type_error(
        "targets: " + py::cast<std::string>(py::type::handle_of(targets).attr("__name__")) +
        ", expected a numpy.ndarray of int32 or int64");
  const py::array array = borrowed(targets);
  const bool wide = array.dtype().equal(py::dtype::of<int64_t>());
  if (!wide && !array.dtype().equal(py::dtype::of<int32_t>()))
    throw py::type_error("targets: dtype " + py::cast<std::string>(py::str(array.dtype())) +
                         ", expected int32 or int64");
  if (!c_order(targets))
    throw py::value_error("targets: not contiguous in C order, expected an array that is");
  const py::array model = borrowed(logits);
  bool same = array.ndim() == model.ndim() - 1;
  for (py::ssize_t i = 0; same && i < array.ndim(); ++i)
    same = array.shape(i) == model.shape(i + (i >= classes.index));
  if (!same)
    throw py::value_error("targets: shape " + shape_of(targets) +
                          ", expected that of logits without axis " +
                          std::to_string(classes.index) + " of " + shape_of(logits));
  job->targets = array.data();
  job->wide_targets = wide;
}

// The weights of the targets that take part, summed in order; raises for one out of range.
template <class T>
double check_classes(const SoftmaxJob& job, const T* weights) {
  double sum = 0;
  for (int64_t row = 0; row < job.rows; ++row) {
    const int64_t target = target_of(job, row);
    if (target == job.ignored) continue;
    if (target < 0 || target >= job.n)
      throw py::value_error("targets: " + std::to_string(target) + " at " + std::to_string(row) +
                            ", expected 0 to " + std::to_string(job.n - 1) +
                            " or ignore_index, which is " + std::to_string(job.ignored));
    sum += weights ? static_cast<double>(weights[target]) : 1;
  }
  return sum;
}

// What the gradient gets of every class when targets are smoothed, in the type of the logits.
template <class T>
void smooth_targets(SoftmaxJob* job, std::vector<unsigned char>* ones,
                    std::vector<unsigned char>* smooth) {
  const T* weights = static_cast<const T*>(job->weights);
  if (job->smoothing != 0 && weights == nullptr) {
    ones->resize(job->n * sizeof(T));
    T* one = reinterpret_cast<T*>(ones->data());
    std::fill_n(one, job->n, T(1));
    job->weights = weights = one;
  }
  job->weight_sum = static_cast<double>(job->n);
  if (job->smoothing == 0) return;
  job->weight_sum = 0;
  smooth->resize(job->n * sizeof(T));
  T* part = reinterpret_cast<T*>(smooth->data());
  const double share = job->scale * (job->smoothing / static_cast<double>(job->n));
  for (int64_t c = 0; c < job->n; ++c) {
    job->weight_sum += static_cast<double>(weights[c]);
    part[c] = static_cast<T>(share * static_cast<double>(weights[c]));
  }
  job->smooth = part;
}

enum Reduction { kMean, kSum, kNone };

// A weight for each class, in the dtype of the logits.
const void* check_weights(py::handle weight, py::handle logits, const ArrayView& view,
                          int64_t classes) {
  if (weight.is_none()) return nullptr;
  const ArrayView weights = check_array(weight, Access::kRead, "weight", py::none());
  if (weights.type != view.type)
    throw py::type_error(
        "weight: dtype " + py::cast<std::string>(py::str(borrowed(weight).dtype())) +
        ", expected " + py::cast<std::string>(py::str(borrowed(logits).dtype())) + " as in logits");
  if (borrowed(weight).ndim() != 1 || weights.n != classes)
    throw py::value_error("weight: shape " + shape_of(weight) + ", expected (" +
                          std::to_string(classes) + ",)");
  return weights.data;
}

py::tuple cross_entropy(py::handle logits, py::handle targets, py::handle weight, double smoothing,
                        int64_t ignored, int reduction, py::handle out) {
  const ArrayView view = check_c_order(logits, "logits");
  if (borrowed(logits).ndim() == 0)
    throw py::value_error("logits: 0 dimensions, expected at least 1");
  const Axis classes = check_axis(logits, borrowed(logits).ndim() == 1 ? 0 : 1, "logits");
  SoftmaxJob job = softmax_job(kCrossEntropy, classes, view.data, view.data, nullptr);
  if (job.n == 0) throw py::value_error("logits: no classes, expected at least 1");
  job.ignored = ignored;
  job.smoothing = smoothing;
  check_targets(&job, targets, logits, classes);
  job.weights = check_weights(weight, logits, view, job.n);
  const double taking_part = view.type == kFloat32
                                 ? check_classes(job, static_cast<const float*>(job.weights))
                                 : check_classes(job, static_cast<const double*>(job.weights));
  job.scale = reduction == kMean ? 1 / taking_part : 1;
  std::vector<py::handle> inputs = {logits};
  py::array dlogits = output(out, logits, view.type, "logits", inputs);
  for (const py::handle input : {targets, weight}) {
    if (input.is_none()) continue;
    const char* begin = static_cast<const char*>(borrowed(input).data());
    const char* to = static_cast<const char*>(dlogits.data());
    if (begin < to + dlogits.nbytes() && to < begin + borrowed(input).nbytes())
      throw py::value_error(std::string("out: overlaps ") +
                            (input.ptr() == targets.ptr() ? "targets" : "weight") +
                            ", expected memory of its own or exactly logits");
  }
  job.y = dlogits.mutable_data();
  std::vector<double> losses(job.rows);
  job.losses = losses.data();
  double sum = 0;
  without_gil(view.n, [&] {
    std::vector<unsigned char> ones, smooth;
    if (view.type == kFloat32)
      smooth_targets<float>(&job, &ones, &smooth);
    else
      smooth_targets<double>(&job, &ones, &smooth);
    sum = run_cross_entropy(job, view.type);
  });
  if (reduction != kNone)
    return py::make_tuple(reduction == kMean ? sum / taking_part : sum, dlogits);
  const py::array model = borrowed(targets);
  py::array each = new_array(view.type, {model.shape(), model.shape() + model.ndim()});
  for (int64_t row = 0; row < job.rows; ++row) {
    if (view.type == kFloat32)
      static_cast<float*>(each.mutable_data())[row] = static_cast<float>(losses[row]);
    else
      static_cast<double*>(each.mutable_data())[row] = losses[row];
  }
  return py::make_tuple(each, dlogits);
}

py::tuple mse(py::handle prediction, py::handle target, py::handle out) {
  const ArrayView view = check_array(prediction, Access::kRead, "prediction", py::none());
  const ArrayView wanted =
      check_like(target, prediction, Access::kRead, "target", "prediction", py::none());
  py::array gradient = output(out, prediction, view.type, "prediction", {prediction, target});
  void* to = gradient.mutable_data();
  double loss = 0;
  without_gil(view.n, [&] { loss = run_mse(view.type, view.n, view.data, wanted.data, to); });
  return py::make_tuple(loss, gradient);
}

// One weight counts as a channel of everything.
PreluJob prelu_job(py::handle x, const ArrayView& view, py::handle weight, int64_t axis) {
  const ArrayView weights = check_array(weight, Access::kRead, "weight", py::none());
  if (borrowed(weight).ndim() != 1)
    throw py::value_error("weight: shape " + shape_of(weight) + ", expected one dimension");
  if (weights.type != view.type)
    throw py::type_error("weight: dtype " +
                         py::cast<std::string>(py::str(borrowed(weight).dtype())) + ", expected " +
                         py::cast<std::string>(py::str(borrowed(x).dtype())) + " as in x");
  PreluJob job{};
  job.weight = weights.data;
  job.x = view.data;
  job.outer = job.channels = 1;
  job.inner = view.n;
  if (weights.n == 1) return job;
  const Axis channels = check_axis(x, axis, "x");
  if (channels.n != weights.n)
    throw py::value_error("weight: shape " + shape_of(weight) + ", expected (" +
                          std::to_string(channels.n) + ",) for axis " + std::to_string(axis) +
                          " of x, or (1,)");
  job.outer = channels.outer;
  job.channels = channels.n;
  job.inner = channels.inner;
  return job;
}

void check_apart(const py::array& out, py::handle weight) {
  const char *begin = static_cast<const char*>(borrowed(weight).data()),
             *to = static_cast<const char*>(out.data());
  if (begin < to + out.nbytes() && to < begin + borrowed(weight).nbytes())
    throw py::value_error("out: overlaps weight, expected memory of its own");
}

py::array prelu(py::handle x, py::handle weight, int64_t axis, py::handle out) {
  const ArrayView view = check_c_order(x, "x");
  PreluJob job = prelu_job(x, view, weight, axis);
  py::array y = output(out, x, view.type, "x", {x});
  check_apart(y, weight);
  job.y = y.mutable_data();
  without_gil(view.n, [&] { run_prelu(job, view.type); });
  return y;
}

py::tuple prelu_backward(py::handle dy, py::handle x, py::handle weight, int64_t axis,
                         py::handle out) {
  const ArrayView view = check_c_order(x, "x");
  const ArrayView gradient = check_like(dy, x, Access::kRead, "dy", "x", py::none());
  PreluJob job = prelu_job(x, view, weight, axis);
  py::array dx = output(out, x, view.type, "x", {dy, x});
  check_apart(dx, weight);
  job.dy = gradient.data;
  job.y = dx.mutable_data();
  std::vector<double> sums(job.channels);
  without_gil(view.n, [&] { run_prelu_backward(job, view.type, sums.data()); });
  py::array dweight = new_array(view.type, {job.channels});
  for (int64_t c = 0; c < job.channels; ++c) {
    if (view.type == kFloat32)
      static_cast<float*>(dweight.mutable_data())[c] = static_cast<float>(sums[c]);
    else
      static_cast<double*>(dweight.mutable_data())[c] = sums[c];
  }
  return py::make_tuple(dx, dweight);
}

MaxoutJob maxout_job(py::handle x, const ArrayView& view, int64_t pieces, int64_t axis,
                     std::vector<py::ssize_t>* shape) {
  const Axis along = check_axis(x, axis, "x");
  if (pieces < 1 || along.n % pieces != 0)
    throw py::value_error("k: " + std::to_string(pieces) + ", expected a divisor of " +
                          std::to_string(along.n) + ", the size of axis " + std::to_string(axis) +
                          " of x");
  const py::array array = borrowed(x);
  shape->assign(array.shape(), array.shape() + array.ndim());
  (*shape)[along.index] /= pieces;
  return {along.outer, along.n / pieces, pieces, along.inner, view.data, nullptr, nullptr};
}

void check_shape(py::handle object, const std::string& argument, DType type,
                 const std::vector<py::ssize_t>& shape, Access access) {
  const ArrayView view = check_array(object, access, argument, py::none());
  const py::array array = borrowed(object);
  const bool same =
      std::equal(array.shape(), array.shape() + array.ndim(), shape.begin(), shape.end());
  if (view.type != type)
    throw py::type_error(argument + ": dtype " + py::cast<std::string>(py::str(array.dtype())) +
                         ", expected that of x");
  if (!same) {
    std::string expected;
    for (const py::ssize_t size : shape)
      expected += (expected.empty() ? "" : ", ") + std::to_string(size);
    throw py::value_error(argument + ": shape " + shape_of(object) + ", expected (" + expected +
                          (shape.size() == 1 ? ",)" : ")"));
  }
  if (!c_order(object)) throw py::value_error(argument + ": F order, expected C order");
}

py::array maxout(py::handle x, int64_t pieces, int64_t axis, py::handle out) {
  const ArrayView view = check_c_order(x, "x");
  std::vector<py::ssize_t> shape;
  MaxoutJob job = maxout_job(x, view, pieces, axis, &shape);
  if (!out.is_none()) {
    check_shape(out, "out", view.type, shape, Access::kWrite);
    const char *begin = static_cast<const char*>(view.data),
               *to = static_cast<const char*>(borrowed(out).data());
    if (begin < to + borrowed(out).nbytes() && to < begin + borrowed(x).nbytes())
      throw py::value_error("out: overlaps x, expected memory of its own");
  }
  py::array y = out.is_none() ? new_array(view.type, shape) : borrowed(out);
  job.y = y.mutable_data();
  without_gil(view.n, [&] { run_maxout(job, view.type); });
  return y;
}

py::array maxout_backward(py::handle dy, py::handle x, int64_t pieces, int64_t axis,
                          py::handle out) {
  const ArrayView view = check_c_order(x, "x");
  std::vector<py::ssize_t> shape;
  MaxoutJob job = maxout_job(x, view, pieces, axis, &shape);
  check_shape(dy, "dy", view.type, shape, Access::kRead);
  py::array dx = output(out, x, view.type, "x", {x});
  const char *begin = static_cast<const char*>(borrowed(dy).data()),
             *to = static_cast<const char*>(dx.data());
  if (begin < to + dx.nbytes() && to < begin + borrowed(dy).nbytes())
    throw py::value_error("out: overlaps dy, expected memory of its own or exactly x");
  job.dy = borrowed(dy).data();
  job.y = dx.mutable_data();
  without_gil(view.n, [&] { run_maxout(job, view.type); });
  return dx;
}

}  // namespace

void define_activation(py::module_& m) {
  py::dict activations;
  const ActivationKernels& kernels = *active_table().activation;
  for (int i = 0; i < kernels.activation_count; ++i) activations[kernels.activations[i].name] = i;
  m.attr("ACTIVATIONS") = activations;
  m.attr("CHANNEL_ROWS") = kChannelRows;
  m.def("activate", activate);
  m.def("activate_backward", activate_backward);
  m.def("softmax", softmax);
  m.def("softmax_backward", softmax_backward);
  m.def("cross_entropy", cross_entropy);
  m.def("mse", mse);
  m.def("prelu", prelu);
  m.def("prelu_backward", prelu_backward);
  m.def("maxout", maxout);
  m.def("maxout_backward", maxout_backward);
}

}  // namespace gradstep
