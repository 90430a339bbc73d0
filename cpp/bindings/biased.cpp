// Activations of x + bias, with dropout, and the gradient of the bias.
#include "engine/activation/biased.hpp"

#include <optional>
#include <vector>

#include "bindings/arguments.hpp"
#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/memory.hpp"
#include "engine/dispatch.hpp"
#include "engine/dtype.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

int check_function(int64_t index) {
  const int64_t count = active_table().activation->activation_count;
  if (index < 0 || index >= count)
    throw py::value_error("index: " + std::to_string(index) + ", expected one of ACTIVATIONS");
  return static_cast<int>(index);
}

// None without dropout.
std::optional<DropoutRule> rule_or_none(py::handle p, py::handle seed, py::handle offset) {
  constexpr const char* kRange = "a number in [0, 1]";
  const double value = check_number(p, "p", kRange);
  if (!(value >= 0 && value <= 1)) throw py::value_error("p: " + text(p) + ", expected " + kRange);
  const uint64_t seed_word = check_word(seed, "seed"), offset_word = check_word(offset, "offset");
  if (value == 0) return std::nullopt;
  return dropout_rule(value, seed_word, offset_word);
}

Input check_rows(py::handle x, const std::string& argument) {
  Input input = check_c_order(x, argument);
  if (input.shape.empty())
    throw py::value_error(argument + ": shape (), expected (..., C), a value for each column");
  return input;
}

BiasedJob job_of(const Input& x) {
  BiasedJob job{};
  job.columns = x.shape.back();
  job.rows = job.columns ? x.view.n / job.columns : 0;
  job.x = x.view.data;
  job.scale = 1;
  return job;
}

py::array bias_activation(int64_t index, py::handle x, py::handle bias, double parameter,
                          py::handle p, py::handle seed, py::handle offset, py::handle out) {
  const int function = check_function(index);
  const std::optional<DropoutRule> rule = rule_or_none(p, seed, offset);
  const Input input = check_rows(x, "x");
  BiasedJob job = job_of(input);
  const Input added =
      check_shaped(bias, Access::kRead, "bias", {job.columns}, input.view.type, "x");
  Memory memory;
  memory.reads(input, "x", true);
  memory.reads(added, "bias");
  py::array y = memory.result(out, input, "x");
  job.bias = added.view.data;
  job.y = y.mutable_data();
  without_gil(input.view.n, [&] {
    run_biased(function, input.view.type, parameter, job, rule ? &*rule : nullptr);
  });
  return y;
}

py::tuple bias_activation_backward(int64_t index, py::handle dy, py::handle saved,
                                   const std::string& argument, py::handle bias, double parameter,
                                   py::handle p, py::handle seed, py::handle offset,
                                   py::handle out) {
  const int function = check_function(index);
  const std::optional<DropoutRule> rule = rule_or_none(p, seed, offset);
  const Input input = check_rows(saved, argument);
  const Input gradient = check_input_like(dy, input, "dy", argument);
  BiasedJob job = job_of(input);
  const DType type = input.view.type;
  Memory memory;
  memory.reads(gradient, "dy", true);
  // Where dropout is undone first, dx is written before what was saved is read.
  memory.reads(input, argument.c_str(), !rule);
  if (!bias.is_none()) {
    const Input added = check_shaped(bias, Access::kRead, "bias", {job.columns}, type, argument);
    memory.reads(added, "bias");
    job.bias = added.view.data;
  }
  py::array dx = memory.result(out, input, argument.c_str()),
            dbias = new_array(type, {job.columns});
  py::tuple both = py::make_tuple(dx, dbias);
  job.dy = gradient.view.data;
  job.y = dx.mutable_data();
  std::vector<double> sums(job.columns);
  job.sums = sums.data();
  without_gil(input.view.n, [&] {
    run_biased_backward(function, type, parameter, job, rule ? &*rule : nullptr);
  });
  for (int64_t c = 0; c < job.columns; ++c) set_value(dbias.mutable_data(), type, c, sums[c]);
  return both;
}

}  // namespace

void define_biased(py::module_& m) {
  m.def("bias_activation", bias_activation);
  m.def("bias_activation_backward", bias_activation_backward);
}

}  // namespace gradstep
