// The Python module: names and checks, no arithmetic.
#include <pybind11/stl.h>

#include <cstdlib>

#include "bindings/arguments.hpp"
#include "bindings/arrays.hpp"
#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/plan.hpp"
#include "engine/blas_threads.hpp"
#include "engine/dispatch.hpp"
#include "engine/float_control.hpp"
#include "engine/step/step_plan.hpp"
#include "engine/thread_pool.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

std::vector<std::string> simd_levels() {
  std::vector<std::string> names;
  for (const KernelTable* table : supported_tables()) names.push_back(table->isa);
  return names;
}

void use_simd(const std::string& level, const std::string& argument) {
  if (activate_table(level)) return;
  std::string lacking;
  for (const auto& [isa, missing] : missing_features())
    if (isa == level) lacking = "; this CPU lacks " + missing;
  throw py::value_error(argument + ": " + level + ", expected one of " + joined(simd_levels()) +
                        " (what this build has and this CPU runs" + lacking + ")");
}

// name -> state names, of the optimizers and of the assignments.
py::dict kernels(bool optimizers) {
  const OptimKernels& table = *active_table().optim;
  py::dict found;
  const int first = optimizers ? 0 : table.optimizer_count;
  const int last = optimizers ? table.optimizer_count : table.kernel_count;
  for (int i = first; i < last; ++i) {
    const Kernel& kernel = table.kernels[i];
    py::tuple states(kernel.state_count);
    for (int s = 0; s < kernel.state_count; ++s) states[s] = py::str(kernel.state_names[s]);
    found[kernel.name] = states;
  }
  return found;
}

// Numbers become arrays; a tuple: others may change a list during the call.
py::tuple read_tree(const py::sequence& list) {
  py::list arrays;
  for (const py::handle leaf : py::tuple(list)) arrays.append(readable(leaf));
  return py::tuple(arrays);
}

// A plan that only reads: its parameters are never written.
StepPlan read_plan(const py::tuple& arrays, const py::sequence& names,
                   const std::string& argument) {
  StepPlan plan;
  std::string missing;
  plan.add_group(kernel_index("Assign"), {"maximize", "clip_value", "l1", "l2"}, &missing);
  for (size_t i = 0; i < arrays.size(); ++i) {
    const ArrayView view = check_array(arrays[i], Access::kRead, argument, names[i],
                                       kValueTypes | types(kBfloat16, kFloat16));
    const bool half = bytes_of(view.type) == 2;
    plan.add_tensor(0, half ? kFloat32 : view.type, view.n, view.data, nullptr);
    plan.set_gradient(static_cast<int64_t>(i), view.data, true, keep_of(view.type));
  }
  return plan;
}

// The sums of squares of each kSumBlock elements of an array.
py::array block_sums(const py::object& array, const std::string& argument) {
  StepPlan plan = read_plan(py::make_tuple(array), py::make_tuple(py::none()), argument);
  std::vector<double> sums;
  without_gil(plan.elements(), [&] { sums = plan.gradient_block_sums(); });
  py::array found = new_array(kFloat64, {static_cast<int64_t>(sums.size())});
  std::copy(sums.begin(), sums.end(), static_cast<double*>(found.mutable_data()));
  return found;
}

double global_norm(const py::sequence& list, const py::sequence& names,
                   const std::string& argument) {
  const py::tuple arrays = read_tree(list);
  StepPlan plan = read_plan(arrays, names, argument);
  double norm = 0;
  without_gil(plan.elements(), [&] { norm = plan.gradient_norm(); });
  return norm;
}

// (min, max, sum, sum of squares, count of non-finite elements) of each array.
py::list summarize(const py::sequence& list, const py::sequence& names,
                   const std::string& argument) {
  const py::tuple arrays = read_tree(list);
  StepPlan plan = read_plan(arrays, names, argument);
  std::vector<BlockSummary> summaries;
  without_gil(plan.elements(), [&] { summaries = plan.summarize_gradients(); });
  py::list result;
  for (const BlockSummary& s : summaries)
    result.append(py::make_tuple(s.min, s.max, s.sum, s.sum_squares, s.nonfinite));
  return result;
}

void set_num_threads(int64_t n) {
  if (n < 1 || n > kMaxThreads)
    throw py::value_error("n: " + std::to_string(n) + ", expected 1 to " +
                          std::to_string(kMaxThreads));
  ThreadPool::instance().set_threads(static_cast<int>(n));
}

// Sets one of the sizes in share_out.hpp and returns what it was: for bench/sweeps.py.
int64_t tune(const std::string& name, int64_t value) {
  if (value < 0) throw py::value_error("value: " + std::to_string(value) + ", expected >= 0");
  if (name == "serial") return tuning.serial.exchange(value);
  if (name == "spin") return tuning.spin.exchange(value);
  if (name == "wake") return tuning.wake.exchange(value);
  if (name == "cache") return tuning.cache.exchange(value);
  if (name != "task")
    throw py::value_error("name: " + name + ", expected task, serial, spin, wake or cache");
  if (value == 0) throw py::value_error("value: 0, expected > 0");
  return tuning.task.exchange(value);
}

// Addresses of three functions, as ctypes gives them; those of the first call stay.
void borrow_threads(uintptr_t parallel, uintptr_t thread_num, uintptr_t max_threads) {
  static const OpenMP runtime{reinterpret_cast<decltype(OpenMP::parallel)>(parallel),
                              reinterpret_cast<decltype(OpenMP::thread_num)>(thread_num),
                              reinterpret_cast<decltype(OpenMP::max_threads)>(max_threads)};
  ThreadPool::instance().borrow(&runtime);
}

// Whether runs of this thread take NumPy's BLAS threads while they are awake; false if there are
// none.
bool use_blas_threads(bool on) {
  const OpenMP* threads = on ? find_blas_threads() : nullptr;
  if (threads) ThreadPool::instance().lend(threads, blas_threads_awake);
  ThreadPool::use_lent(threads != nullptr);
  return threads != nullptr;
}

bool uses_blas_threads() {
  const bool on = ThreadPool::use_lent(false);
  ThreadPool::use_lent(on);
  return on;
}

void read_environment() {
  if (const char* level = std::getenv("GRADSTEP_SIMD"); level && *level)
    use_simd(level, "GRADSTEP_SIMD");
  std::string error;
  default_threads(&error);
  if (!error.empty()) throw py::value_error(error);
}

}  // namespace

// threadpoolctl finds libraries by their symbols.
extern "C" __attribute__((visibility("default"))) int gradstep_num_threads() {
  return ThreadPool::instance().threads();
}

PYBIND11_MODULE(_core, m, gil_option()) {
  m.doc() = "The compiled kernels of gradstep.";
  m.attr("__version__") = GRADSTEP_VERSION;
  m.attr("compiler") = GRADSTEP_COMPILER;
  m.attr("SUM_BLOCK") = kSumBlock;
  read_environment();
  load_number_types();
  load_array_types();
  m.def("simd_levels", simd_levels);
  m.def("compiled_simd_levels", compiled_isas);
  m.def("missing_simd_features", missing_features);
  m.def("simd_level", [] { return active_table().isa; });
  m.def("use_simd", [](const std::string& level) { use_simd(level, "level"); }, py::arg("level"));
  m.def("get_num_threads", [] { return ThreadPool::instance().threads(); });
  m.def("set_num_threads", set_num_threads, py::arg("n"));
  m.def("tune", tune, py::arg("name"), py::arg("value"));
  m.def("borrow_threads", borrow_threads, py::arg("parallel"), py::arg("thread_num"),
        py::arg("max_threads"));
  m.def("use_team", &ThreadPool::use_team, py::arg("on"));
  m.def("return_threads", [] { ThreadPool::instance().borrow(nullptr); });
  m.def("use_blas_threads", use_blas_threads, py::arg("on"));
  m.def("uses_blas_threads", uses_blas_threads);
  m.def(
      "flush_denormals", [](bool on) { return flush_denormals(on ? kFlushDenormals : 0); },
      py::arg("on"));
  m.def("restore_denormals", [](uint64_t bits) { flush_denormals(bits); }, py::arg("bits"));
  m.def("threads_borrowed", [] { return ThreadPool::instance().borrows(); });
  m.def("optimizer_kernels", [] { return kernels(true); });
  m.def("assignment_kernels", [] { return kernels(false); });
  m.def("block_sums", block_sums, py::arg("array"), py::arg("argument"));
  m.def("global_norm", global_norm, py::arg("arrays"), py::arg("names"), py::arg("argument"));
  m.def("summarize", summarize, py::arg("arrays"), py::arg("names"), py::arg("argument"));
  define_plan(m);
  define_exchange(m);
  define_tensors(m);
  define_norm_calls(m);
  define_dropout(m);
  define_batch_norm(m);
  define_row_norm(m);
  define_group_norm(m);
  define_elementwise(m);
  define_biased(m);
  define_softmax(m);
  define_halves(m);
  define_losses(m);
  define_channels(m);
#if defined(GRADSTEP_WRAPS_NEW)
  define_allocation(m);
#endif
}

}  // namespace gradstep
