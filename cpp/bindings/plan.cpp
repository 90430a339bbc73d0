#include "bindings/plan.hpp"

#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/constructor.hpp"
#include "bindings/exchange.hpp"
#include "bindings/families.hpp"
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
  std::vector<Parameter> copies;
  for (const py::handle item : tensors) {
    auto tensor = py::reinterpret_borrow<py::sequence>(item);
    const int group = py::cast<int>(tensor[1]);
    Entry entry{tensor[0], {}, {}};
    const py::object parameter = tensor[2];
    const size_t number = entries_.size(), last = tensor.size() - 1;
    const bool laid_out = py::isinstance<py::dict>(tensor[last]);
    const Types kept = laid_out ? types(kFloat32, kBfloat16) : kValueTypes;
    const ArrayView p = check_array(parameter, Access::kWrite, labels_[0], entry.name, kept);
    written_.add(p, labels_[0], entry.name);
    const size_t count = tensor.size() - 3 - laid_out;
    if (static_cast<int>(count) != state_counts.at(group))
      throw py::value_error(label(labels_[1], entry.name) + ": " + std::to_string(count) +
                            " arrays, expected " + std::to_string(state_counts[group]));
    std::vector<void*> states;
    std::vector<ArrayView> views;
    for (size_t i = 3; i < 3 + count; ++i) {
      views.push_back(take_state(&entry, tensor[i], parameter,
                                 laid_out ? types(kFloat32, kBfloat16, kInt8, kUint8) : 0));
      states.push_back(views.back().data);
    }
    if (laid_out) {
      const auto given = py::reinterpret_borrow<py::dict>(tensor[last]);
      const Layout layout = take_layout(&entry, given, p, parameter, views, &copies);
      plan_.add_tensor(group, kFloat32, p.n, p.data, states.data(), &layout);
    } else {
      plan_.add_tensor(group, p.type, p.n, p.data, states.data());
    }
    gradient_types_.push_back(p.type == kFloat64 ? 0 : types(kFloat32, kBfloat16, kFloat16));
    entries_.push_back(std::move(entry));
    parameters_.push_back({parameter, p, number, labels_[0]});
  }
  parameters_.insert(parameters_.end(), copies.begin(), copies.end());
  written_.finish();
}

ArrayView Plan::take_state(Entry* entry, py::object array, py::handle parameter, Types kept) {
  entry->states.push_back(std::move(array));
  const ArrayView view = check_like(entry->states.back(), parameter, Access::kWrite, labels_[1],
                                    labels_[0], entry->name, kept);
  written_.add(view, labels_[1], entry->name);
  return view;
}

// given: "low", int16, the missing bits of a bfloat16 parameter; "ema", its average; "copy", the
// array that gets the parameter rounded, which messages call "copy_argument"; "scales", for each
// state None or the float32 scales of its blocks; "seed" and "first_tile" of the random bits.
Layout Plan::take_layout(Entry* entry, const py::dict& given, const ArrayView& p,
                         py::handle parameter, const std::vector<ArrayView>& states,
                         std::vector<Parameter>* copies) {
  Layout layout;
  layout.seed = py::cast<uint64_t>(given["seed"]);
  layout.first_tile = py::cast<int64_t>(given["first_tile"]);
  layout.p.as = keep_of(p.type);
  if (given.contains("low"))
    layout.p = {Keep::kSplit, take_state(entry, given["low"], parameter, types(kInt16)).data};
  if (given.contains("ema")) {
    const ArrayView ema = take_state(entry, given["ema"], parameter, types(kFloat32, kBfloat16));
    layout.average = ema.data;
    layout.average_as = keep_of(ema.type);
  }
  if (given.contains("copy")) {
    const auto argument = py::cast<std::string>(given["copy_argument"]);
    const ArrayView copy = check_like(given["copy"], parameter, Access::kWrite, argument,
                                      labels_[0], entry->name, types(kBfloat16, kFloat16));
    written_.add(copy, argument, entry->name);
    layout.copy = copy.data;
    layout.copy_as = keep_of(copy.type);
    copies->push_back({given["copy"], copy, entries_.size(), argument});
  }
  const auto scales = py::reinterpret_borrow<py::sequence>(given["scales"]);
  const int64_t blocks = (p.n + kScaleBlock - 1) / kScaleBlock;
  for (size_t i = 0; i < states.size(); ++i) {
    layout.state[i].as = keep_of(states[i].type);
    if (bytes_of(states[i].type) != 1) continue;
    entry->states.push_back(scales[i]);
    const ArrayView of =
        check_array(entry->states.back(), Access::kWrite, labels_[1], entry->name, types(kFloat32));
    if (of.n != blocks)
      throw py::value_error(label(labels_[1], entry->name) + ": " + std::to_string(of.n) +
                            " scales, expected " + std::to_string(blocks));
    written_.add(of, labels_[1], entry->name);
    layout.state[i].more = of.data;
  }
  return layout;
}

Plan::Busy::Busy(Plan& plan) : held_(plan.gil_), flag_(plan.busy_) {
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

void Plan::check_parameters() const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& parameter = parameters_[i];
    if (is_still(parameter.array, parameter.view, Access::kWrite)) continue;
    const py::handle name = entries_[parameter.entry].name;
    const std::string& argument = parameter.argument;
    const ArrayView now = check_array(parameter.array, Access::kWrite, argument, name,
                                      kValueTypes | types(kBfloat16, kFloat16));
    if (now == parameter.view) continue;
    throw py::value_error(
        label(argument, name) +
        ": other memory, size or dtype than when it was given, expected the same");
  }
}

static bool is_one_of(int type, Types accepted) { return type >= 0 && (accepted & types(type)); }

// Another library's array comes in through DLPack, without a copy.
py::handle Plan::imported(py::handle object, py::handle name, Gradients* owner) {
  if (py::isinstance<py::array>(object) || !py::hasattr(object, "__dlpack__")) return object;
  const auto as_array = py::module_::import("gradstep.arrays").attr("as_array");
  owner->imported.push_back(as_array(object, labels_[2], name));
  return owner->imported.back();
}

Plan::Gradient Plan::check_gradient(int64_t tensor, py::handle object, Gradients* owner) {
  if (object.is_none()) return {nullptr, false, kFloat32, {}};
  Entry& entry = entries_[tensor];
  const py::object& parameter = parameters_[tensor].array;
  ArrayView view = parameters_[tensor].view;
  const Types others = gradient_types_[tensor];
  py::handle array;
  DLTensor read;
  if (!py::isinstance<py::array>(object) && read_tensor(object.ptr(), &read) &&
      is_one_of(type_of(read), others | types(view.type)) &&
      is_like(read, parameter, static_cast<DType>(type_of(read)))) {
    view.data = read.address();
    view.type = static_cast<DType>(type_of(read));
  } else {
    array = imported(object, entry.name, owner);
    if (is_scalar(array) && !owner->stay) {
      owner->imported.push_back(readable_like(array, parameter, view.type));
      array = owner->imported.back();
    }
    view = check_like(array, parameter, Access::kRead, labels_[2], labels_[0], entry.name, others);
  }
  const Extent extent{view.data, view.type};
  if (extent != entry.verified) {
    // The parameter itself may be its gradient, but not its memory as another type.
    const ArrayView& own = parameters_[tensor].view;
    written_.check_read(view, view.type == own.type ? own.data : nullptr, labels_[2], entry.name);
    entry.verified = extent;
  }
  return {view.data, true, view.type, array};
}

// A list may be changed by others during the call, and by its own elements: they are taken first.
void Plan::check_gradients(py::handle grads, Gradients* owner) {
  const auto sequence = py::reinterpret_steal<py::object>(
      PySequence_Fast(grads.ptr(), (labels_[2] + ": expected a sequence of arrays").c_str()));
  if (!sequence) throw py::error_already_set();
  owner->objects = py::tuple(sequence);
  const auto count = static_cast<int64_t>(owner->objects.size());
  if (count != plan_.size())
    throw py::value_error(labels_[2] + ": " + std::to_string(count) + " arrays, expected " +
                          std::to_string(plan_.size()) + ", one for each of " + labels_[0]);
  owner->found.resize(count);
  for (int64_t i = 0; i < count; ++i)
    owner->found[i] = check_gradient(i, PyTuple_GET_ITEM(owner->objects.ptr(), i), owner);
}

// Arrays that were bound may have been moved or resized since; other libraries' are looked at
// again.
void Plan::check_bound() {
  for (int64_t i = 0; i < plan_.size(); ++i) {
    Gradient& gradient = bound_.found[i];
    if (!gradient.present) continue;
    const ArrayView& like = parameters_[i].view;
    const ArrayView view{const_cast<void*>(gradient.data), gradient.type, like.n};
    if (gradient.array && is_still(gradient.array, view, Access::kRead)) continue;
    const Gradient now = check_gradient(i, PyTuple_GET_ITEM(bound_.objects.ptr(), i), &bound_);
    uses_bound_ = uses_bound_ && now.data == gradient.data && now.type == gradient.type;
    gradient = now;
  }
}

// The bound gradients for None.
Plan::Gradients& Plan::checked(py::handle grads, Gradients* given) {
  if (!grads.is_none()) return check_gradients(grads, given), *given;
  if (!is_bound_)
    throw py::value_error(labels_[2] +
                          ": None, expected arrays, or buffers given to bind() before");
  check_bound();
  return bound_;
}

void Plan::use(const Gradients& gradients) {
  const bool bound = &gradients == &bound_;
  in_parts_ = false;
  if (bound && uses_bound_) return;
  for (int64_t i = 0; i < plan_.size(); ++i)
    plan_.set_gradient(i, gradients.found[i].data, gradients.found[i].present,
                       keep_of(gradients.found[i].type));
  uses_bound_ = bound;
}

void Plan::bind(const py::sequence& grads) {
  const Busy busy(*this);
  Gradients found;
  found.stay = true;
  check_parameters();
  check_gradients(grads, &found);
  bound_ = std::move(found);
  is_bound_ = true;
  uses_bound_ = false;
}

void Plan::unbind() {
  const Busy busy(*this);
  bound_ = Gradients();
  is_bound_ = uses_bound_ = false;
}

// Gradients that the step fills with zeros: writable, and each with memory of its own.
void Plan::check_zeroable(Gradients* gradients) {
  std::vector<Extent> extents;
  std::vector<std::pair<ArrayView, size_t>> views;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Gradient& gradient = gradients->found[i];
    extents.push_back({gradient.data, gradient.type});
    if (!gradient.present) continue;
    py::handle array = gradient.array;
    if (is_scalar(gradients->objects[i])) array = gradients->objects[i];
    if (!array) array = imported(gradients->objects[i], entries_[i].name, gradients);
    views.emplace_back(check_array(array, Access::kWrite, labels_[2], entries_[i].name,
                                   kValueTypes | types(kBfloat16, kFloat16)),
                       i);
  }
  if (extents == zeroable_) return;
  WrittenMemory memory = written_;
  for (const auto& [view, i] : views) memory.add(view, labels_[2], entries_[i].name);
  memory.finish();
  zeroable_ = std::move(extents);
}

void Plan::check(py::handle grads) {
  const Busy busy(*this);
  Gradients given;
  check_parameters();
  checked(grads, &given);
}

py::list Plan::gradient_block_sums(py::handle grads) {
  const Busy busy(*this);
  Gradients given;
  use(checked(grads, &given));
  std::vector<double> sums;
  without_gil(plan_.elements(), [&] { sums = plan_.gradient_block_sums(); });
  py::list result;
  const double* next = sums.data();
  for (const int64_t count : plan_.block_counts()) {
    py::array blocks = new_array(kFloat64, {count});
    std::copy_n(next, count, static_cast<double*>(blocks.mutable_data()));
    result.append(blocks);
    next += count;
  }
  return result;
}

void Plan::accumulate(py::handle grads, const py::sequence& sums) {
  const Busy busy(*this);
  Gradients given;
  check_parameters();
  use(checked(grads, &given));
  // All memory is there before anything is written.
  std::vector<double> blocks(plan_.all_blocks());
  std::vector<ArrayView> views;
  for (const py::handle array : sums)
    views.push_back(check_array(array, Access::kWrite, "sums", py::none(), types(kFloat64)));
  int64_t room = 0;
  for (const ArrayView& view : views) room += view.n;
  if (room != static_cast<int64_t>(blocks.size()))
    throw py::value_error("sums: " + std::to_string(room) + " elements, expected " +
                          std::to_string(blocks.size()));
  without_gil(plan_.elements(), [&] { plan_.accumulate(blocks.data()); });
  const double* next = blocks.data();
  for (const ArrayView& view : views) {
    std::copy_n(next, view.n, static_cast<double*>(view.data));
    next += view.n;
  }
}

py::tuple Plan::step(py::handle grads, double grad_scale, double clip_norm, bool check_finite,
                     bool zero_grads) {
  return apply(grads, {grad_scale, clip_norm, check_finite, zero_grads});
}

py::tuple Plan::step_with_norm(double norm, py::handle grads, double grad_scale, double clip_norm,
                               bool check_finite, bool zero_grads) {
  return apply(grads, {grad_scale, clip_norm, check_finite, zero_grads, &norm});
}

py::tuple Plan::apply(py::handle grads, const StepPlan::Options& options) {
  const Busy busy(*this);
  Gradients given;
  given.found.swap(spare_);  // keeps its memory from step to step
  const struct GiveBack {
    std::vector<Gradient>&spare, &found;
    ~GiveBack() { spare.swap(found); }
  } give_back{spare_, given.found};
  check_parameters();
  Gradients& gradients = checked(grads, &given);
  if (options.zero_grads) check_zeroable(&gradients);
  // All that the result needs is there before anything is written.
  const py::int_ before(plan_.step_count()), after(plan_.step_count() + 1);
  LateFloat norm;
  py::tuple result(3);
  use(gradients);
  StepPlan::Outcome outcome;
  without_gil(plan_.elements(), [&] { outcome = plan_.apply(options); });
  plan_.count(outcome);
  norm.set(outcome.grad_norm);
  result[0] = outcome.applied ? after : before;
  result[1] = options.clip_norm > 0 || options.check_finite ? norm.object() : py::handle(Py_None);
  result[2] = py::bool_(outcome.applied);
  return result;
}

void Plan::begin(const py::sequence& grads, double grad_scale, bool zero_grads) {
  const Busy busy(*this);
  in_parts_ = false;  // also where a check fails
  parts_ = Gradients();
  check_parameters();
  check_gradients(grads, &parts_);
  if (zero_grads) check_zeroable(&parts_);
  use(parts_);
  plan_.prepare(grad_scale, zero_grads);
  in_parts_ = true;
}

void Plan::update_part(int64_t tensor, int64_t start, int64_t stop) {
  const Busy busy(*this);
  if (!in_parts_) throw std::runtime_error("update_part: called before begin");
  if (tensor < 0 || tensor >= plan_.size() || !parts_.found[tensor].present)
    throw py::value_error("tensor: " + std::to_string(tensor) + ", expected one with a gradient");
  const int64_t n = parameters_[tensor].view.n;
  if (start < 0 || start % kSumBlock || stop < start || stop > n)
    throw py::value_error("part: " + std::to_string(start) + " to " + std::to_string(stop) +
                          ", expected elements of " + std::to_string(n) + " from a multiple of " +
                          std::to_string(kSumBlock));
  without_gil(stop - start, [&] { plan_.update_part(tensor, start, stop); });
}

int64_t Plan::end() {
  const Busy busy(*this);
  if (!in_parts_) throw std::runtime_error("end: called before begin");
  plan_.count({0, true});
  in_parts_ = false;
  parts_ = Gradients();
  uses_bound_ = false;
  return plan_.step_count();
}

int64_t Plan::step_count() const {
  const OwnGil::Held held(gil_);
  return plan_.step_count();
}

void Plan::set_step_count(int64_t count) {
  const Busy busy(*this);
  if (count < 0) throw py::value_error("step_count: " + std::to_string(count) + ", expected >= 0");
  plan_.set_step_count(count);
}

std::vector<int64_t> Plan::steps() const {
  const OwnGil::Held held(gil_);
  std::vector<int64_t> steps;
  for (int64_t i = 0; i < plan_.size(); ++i) steps.push_back(plan_.steps(i));
  return steps;
}

void Plan::set_steps(const std::vector<int64_t>& steps) {
  const Busy busy(*this);
  if (static_cast<int64_t>(steps.size()) != plan_.size())
    throw py::value_error("steps: " + std::to_string(steps.size()) + ", expected " +
                          std::to_string(plan_.size()));
  for (const int64_t count : steps)
    if (count < 0) throw py::value_error("steps: " + std::to_string(count) + ", expected >= 0");
  for (int64_t i = 0; i < plan_.size(); ++i) plan_.set_steps(i, steps[i]);
}

void define_plan(py::module_& m) {
  py::class_<Plan>(m, "Plan", may_lack_memory())
      .def("__init__", made_of<Plan, py::sequence, py::sequence, Plan::Labels>,
           py::detail::is_new_style_constructor(), py::arg("groups"), py::arg("tensors"),
           py::arg("labels") = Plan::Labels{"params", "state", "grads"})
      .def("set_hyper", &Plan::set_hyper, py::arg("group"), py::arg("values"))
      .def("bind", &Plan::bind, py::arg("grads"))
      .def("unbind", &Plan::unbind)
      .def("check", &Plan::check, py::arg("grads"))
      .def("check_parameters", &Plan::check_parameters)
      .def("step", &Plan::step, py::arg("grads"), py::arg("grad_scale"), py::arg("clip_norm"),
           py::arg("check_finite"), py::arg("zero_grads") = false)
      .def("step_with_norm", &Plan::step_with_norm, py::arg("norm"), py::arg("grads"),
           py::arg("grad_scale"), py::arg("clip_norm"), py::arg("check_finite"),
           py::arg("zero_grads") = false)
      .def("begin", &Plan::begin, py::arg("grads"), py::arg("grad_scale"),
           py::arg("zero_grads") = false)
      .def("update_part", &Plan::update_part, py::arg("tensor"), py::arg("start"), py::arg("stop"))
      .def("end", &Plan::end)
      .def("gradient_block_sums", &Plan::gradient_block_sums, py::arg("grads"))
      .def("accumulate", &Plan::accumulate, py::arg("grads"), py::arg("sums"))
      .def_property("step_count", &Plan::step_count, &Plan::set_step_count)
      .def_property("steps", &Plan::steps, &Plan::set_steps);
}

}  // namespace gradstep
