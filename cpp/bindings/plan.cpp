#include "bindings/plan.hpp"

#include <pybind11/stl.h>

#include <cmath>

#include "bindings/exchange.hpp"
#include "bindings/gil.hpp"
#include "engine/dispatch.hpp"

namespace py = pybind11;

namespace gradstep {

Plan::Plan(const py::sequence& groups, const py::sequence& tensors, Labels labels)
    : labels_(std::move(labels)) {
  std::vector<int> state_counts;
  for (const py::handle item : groups) {
    const auto group = py::reinterpret_borrow<py::sequence>(item);
    const auto kernel = py::cast<std::string>(group[0]);
    const int index = kernel_index(kernel);
    if (index < 0) throw py::value_error("kernel: " + kernel + ", expected a name in kernels()");
    std::string missing;
    plan_.add_group(index, py::cast<std::vector<std::string>>(group[1]), &missing);
    if (!missing.empty()) throw py::value_error(kernel + ": needs a hyperparameter " + missing);
    state_counts.push_back(active_table().optim->kernels[index].state_count);
  }
  for (const py::handle item : tensors) {
    const auto tensor = py::reinterpret_borrow<py::sequence>(item);
    const int group = py::cast<int>(tensor[1]);
    Entry entry{tensor[0], tensor[2], {}, {}, nullptr};
    const ArrayView p = check_array(entry.parameter, Access::kWrite, labels_[0], entry.name);
    entry.type = p.type;
    written_.add(p, labels_[0], entry.name);
    if (static_cast<int>(tensor.size()) != 3 + state_counts.at(group))
      throw py::value_error(label(labels_[1], entry.name) + ": " +
                            std::to_string(tensor.size() - 3) + " arrays, expected " +
                            std::to_string(state_counts[group]));
    std::vector<void*> states;
    for (size_t i = 3; i < tensor.size(); ++i) {
      entry.states.push_back(tensor[i]);
      const ArrayView state = check_like(entry.states.back(), entry.parameter, Access::kWrite,
                                         labels_[1], labels_[0], entry.name);
      written_.add(state, labels_[1], entry.name);
      states.push_back(state.data);
    }
    plan_.add_tensor(group, p.type, p.n, p.data, states.data());
    entries_.push_back(std::move(entry));
  }
  written_.finish();
}

Plan::Busy::Busy(Plan& plan) : flag_(plan.busy_) {
  if (flag_) throw std::runtime_error("this optimizer is in the middle of a step");
  flag_ = true;
}

void Plan::set_hyper(int group, const py::sequence& values) {
  const Busy busy(*this);
  const auto numbers = py::cast<std::vector<double>>(values);
  if (numbers.size() != plan_.hyper_count(group))
    throw py::value_error("values: " + std::to_string(numbers.size()) + ", expected " +
                          std::to_string(plan_.hyper_count(group)));
  plan_.set_hyper(group, numbers.data());
}

// Another library's array comes in through DLPack, without a copy.
py::handle Plan::imported(py::handle object, py::handle name) {
  if (py::isinstance<py::array>(object) || !py::hasattr(object, "__dlpack__")) return object;
  const auto as_array = py::module_::import("gradstep.arrays").attr("as_array");
  imported_.push_back(as_array(object, labels_[2], name));
  return imported_.back();
}

Plan::Gradient Plan::check_gradient(int64_t tensor, py::handle object) {
  if (object.is_none()) return {nullptr, false};
  Entry& entry = entries_[tensor];
  ArrayView view{nullptr, entry.type, 0};
  DLTensor read;
  if (!py::isinstance<py::array>(object) && read_tensor(object.ptr(), &read) &&
      is_like(read, entry.parameter, entry.type)) {
    view = {read.address(), entry.type, py::reinterpret_borrow<py::array>(entry.parameter).size()};
  } else {
    object = imported(object, entry.name);
    view = check_like(object, entry.parameter, Access::kRead, labels_[2], labels_[0], entry.name);
  }
  if (view.data != entry.verified) {
    const auto parameter = py::reinterpret_borrow<py::array>(entry.parameter);
    written_.check_read(view, parameter.data(), labels_[2], entry.name);
    entry.verified = view.data;
  }
  return {view.data, true};
}

std::vector<Plan::Gradient>& Plan::checked(py::handle grads) {
  const auto fast = py::reinterpret_steal<py::object>(
      PySequence_Fast(grads.ptr(), (labels_[2] + ": expected a sequence of arrays").c_str()));
  if (!fast) throw py::error_already_set();
  const int64_t count = PySequence_Fast_GET_SIZE(fast.ptr());
  if (count != plan_.size())
    throw py::value_error(labels_[2] + ": " + std::to_string(count) + " arrays, expected " +
                          std::to_string(plan_.size()) + ", one for each of " + labels_[0]);
  imported_.clear();
  given_.resize(count);
  for (int64_t i = 0; i < count; ++i)
    given_[i] = check_gradient(i, PySequence_Fast_GET_ITEM(fast.ptr(), i));
  return given_;
}

void Plan::use(const std::vector<Gradient>& gradients) {
  for (int64_t i = 0; i < plan_.size(); ++i)
    plan_.set_gradient(i, gradients[i].data, gradients[i].present);
}

// The gradients that were checked last become those of the plan.
void Plan::take(py::handle grads) {
  if (!grads.is_none())
    use(given_), uses_bound_ = false;
  else if (!uses_bound_)
    use(bound_), uses_bound_ = true;
}

py::list Plan::gradient_block_sums(py::handle grads) {
  const Busy busy(*this);
  check_bound_or(grads);
  take(grads);
  std::vector<double> sums;
  without_gil(plan_.elements(), [&] { sums = plan_.gradient_block_sums(); });
  py::list result;
  const double* next = sums.data();
  for (const int64_t count : plan_.block_counts()) {
    result.append(py::array_t<double>(count, next));
    next += count;
  }
  return result;
}

void Plan::bind(const py::sequence& grads) {
  const Busy busy(*this);
  bound_ = checked(grads);
  bound_arrays_.clear();
  for (const py::handle array : grads)
    bound_arrays_.push_back(py::reinterpret_borrow<py::object>(array));
  is_bound_ = true;
  uses_bound_ = bound_zeroable_ = false;
}

void Plan::unbind() {
  const Busy busy(*this);
  bound_arrays_.clear();
  is_bound_ = uses_bound_ = false;
}

// Gradients that the step fills with zeros: writable, and each with memory of its own.
void Plan::check_zeroable(const py::sequence& grads) {
  std::vector<const void*> addresses;
  std::vector<std::pair<ArrayView, size_t>> views;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const py::object object = grads[i];
    if (object.is_none()) {
      addresses.push_back(nullptr);
      continue;
    }
    views.emplace_back(check_array(imported(object, entries_[i].name), Access::kWrite, labels_[2],
                                   entries_[i].name),
                       i);
    addresses.push_back(views.back().first.data);
  }
  if (addresses == zeroable_) return;
  WrittenMemory memory = written_;
  for (const auto& [view, i] : views) memory.add(view, labels_[2], entries_[i].name);
  memory.finish();
  zeroable_ = addresses;
}

void Plan::check_bound_or(py::handle grads) {
  if (!grads.is_none())
    checked(grads);
  else if (!is_bound_)
    throw py::value_error(labels_[2] +
                          ": None, expected arrays, or buffers given to bind() before");
}

void Plan::check(py::handle grads) {
  const Busy busy(*this);
  check_bound_or(grads);
}

py::tuple Plan::step(py::handle grads, double grad_scale, double clip_norm, bool check_finite,
                     bool zero_grads) {
  const Busy busy(*this);
  check_bound_or(grads);
  if (zero_grads && !grads.is_none()) {
    check_zeroable(py::reinterpret_borrow<py::sequence>(grads));
  } else if (zero_grads && !bound_zeroable_) {
    check_zeroable(py::cast(bound_arrays_));
    bound_zeroable_ = true;
  }
  take(grads);
  const StepPlan::Options options{grad_scale, clip_norm, check_finite, zero_grads};
  StepPlan::Outcome outcome;
  without_gil(plan_.elements(), [&] { outcome = plan_.step(options); });
  const bool has_norm = clip_norm > 0 || check_finite;
  return py::make_tuple(plan_.step_count(),
                        has_norm ? py::object(py::float_(outcome.grad_norm)) : py::none(),
                        outcome.applied);
}

void Plan::set_step_count(int64_t count) {
  const Busy busy(*this);
  plan_.set_step_count(count);
}

std::vector<int64_t> Plan::steps() const {
  std::vector<int64_t> steps;
  for (int64_t i = 0; i < plan_.size(); ++i) steps.push_back(plan_.steps(i));
  return steps;
}

void Plan::set_steps(const std::vector<int64_t>& steps) {
  const Busy busy(*this);
  if (static_cast<int64_t>(steps.size()) != plan_.size())
    throw py::value_error("steps: " + std::to_string(steps.size()) + ", expected " +
                          std::to_string(plan_.size()));
  for (int64_t i = 0; i < plan_.size(); ++i) plan_.set_steps(i, steps[i]);
}

void define_plan(py::module_& m) {
  py::class_<Plan>(m, "Plan")
      .def(py::init<py::sequence, py::sequence, Plan::Labels>(), py::arg("groups"),
           py::arg("tensors"), py::arg("labels") = Plan::Labels{"params", "state", "grads"})
      .def("set_hyper", &Plan::set_hyper, py::arg("group"), py::arg("values"))
      .def("bind", &Plan::bind, py::arg("grads"))
      .def("unbind", &Plan::unbind)
      .def("check", &Plan::check, py::arg("grads"))
      .def("step", &Plan::step, py::arg("grads"), py::arg("grad_scale"), py::arg("clip_norm"),
           py::arg("check_finite"), py::arg("zero_grads") = false)
      .def("gradient_block_sums", &Plan::gradient_block_sums, py::arg("grads"))
      .def_property("step_count", &Plan::step_count, &Plan::set_step_count)
      .def_property("steps", &Plan::steps, &Plan::set_steps);
}

}  // namespace gradstep
