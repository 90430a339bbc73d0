#include "engine/step/step_plan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/dispatch.hpp"
#include "engine/dtype.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

static int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static int64_t block_count(int64_t n) { return (n + kSumBlock - 1) / kSumBlock; }

int StepPlan::add_group(int kernel, const std::vector<std::string>& names, std::string* missing) {
  Group group{kernel, {}, std::vector<double>(names.size(), 0.5)};
  for (const std::string& name : names) group.names.push_back(Name::of(name.c_str()));
  const Hyper trial{
      group.names.data(), group.values.data(), static_cast<int>(names.size()), 1, 1, false};
  Formula formula;
  active_table().optim->kernels[kernel].typed[kFloat64].make(trial, &formula);
  if (trial.missing) *missing = trial.missing;
  groups_.push_back(std::move(group));
  return static_cast<int>(groups_.size()) - 1;
}

void StepPlan::add_tensor(int group, DType type, int64_t n, void* p, void* const* states,
                          const Layout* layout) {
  if (layout) layout = &layouts_.emplace_back(*layout);
  Tensor tensor{p, nullptr, {}, Keep::kPlain, layout};
  const int count = active_table().optim->kernels[groups_[group].kernel].state_count;
  std::copy(states, states + count, tensor.state);
  tensors_.push_back(tensor);
  info_.push_back({group, type, false, n, 0, 0, 0});
  elements_ += n;
  stale_ = true;
}

void StepPlan::set_hyper(int group, const double* values) {
  std::copy_n(values, groups_[group].values.size(), groups_[group].values.begin());
}

void StepPlan::set_gradient(int64_t tensor, const void* g, bool present, Keep as) {
  tensors_[tensor].g = g;
  stale_ = stale_ || tensors_[tensor].gradient != as;
  tensors_[tensor].gradient = as;
  if (info_[tensor].present == present) return;
  info_[tensor].present = present;
  stale_ = true;
}

void StepPlan::set_steps(int64_t tensor, int64_t steps) {
  info_[tensor].steps = steps;
  stale_ = true;
}

// Cuts the present tensors into items, the items into tasks of about tuning.task elements, and
// finds the runs of items that share a formula.
void StepPlan::lay_out() {
  items_.clear();
  tasks_.clear();
  segments_.clear();
  block_count_ = 0;
  const int64_t task = tuning.task;
  int64_t filled = task;
  for (int64_t t = 0; t < size(); ++t) {
    Info& info = info_[t];
    if (!info.present || info.n == 0) continue;
    const Info* last = segments_.empty() ? nullptr : &info_[segments_.back().tensor];
    if (!last || last->group != info.group || last->type != info.type || last->steps != info.steps)
      segments_.push_back({static_cast<int64_t>(items_.size()), 0, t, {}});
    info.segment = segments_.size() - 1;
    info.first_block = block_count_;
    block_count_ += block_count(info.n);
    const bool plain = !tensors_[t].layout && tensors_[t].gradient == Keep::kPlain;
    const int64_t size = plain ? task : rounded_up(task, kStoredBlock);
    for (int64_t begin = 0; begin < info.n; begin += size) {
      const int64_t end = std::min(begin + size, info.n);
      if (filled + (end - begin) / 2 >= task) {
        tasks_.push_back(static_cast<int64_t>(items_.size()));
        filled = 0;
      }
      filled += end - begin;
      items_.push_back({t, begin, end});
    }
    segments_.back().last = static_cast<int64_t>(items_.size());
  }
  tasks_.push_back(static_cast<int64_t>(items_.size()));
  stale_ = false;
}

void StepPlan::make_formulas(const OptimKernels& table, double scale, bool zero_grads) {
  for (Segment& segment : segments_) {
    const Info& info = info_[segment.tensor];
    const Group& group = groups_[info.group];
    const Hyper hyper{group.names.data(),
                      group.values.data(),
                      static_cast<int>(group.names.size()),
                      info.steps + 1,
                      scale,
                      zero_grads};
    table.kernels[group.kernel].typed[info.type].make(hyper, &segment.formula);
  }
}

void StepPlan::update(const OptimKernels& table, int64_t first_task, int64_t last_task) const {
  int64_t first = tasks_[first_task];
  const int64_t last = tasks_[last_task];
  auto segment = std::upper_bound(segments_.begin(), segments_.end(), first,
                                  [](int64_t item, const Segment& s) { return item < s.last; });
  for (; first < last; ++segment) {
    const Info& info = info_[segment->tensor];
    const int64_t stop = std::min(last, segment->last);
    table.kernels[groups_[info.group].kernel].typed[info.type].update(
        segment->formula, tensors_.data(), items_.data() + first, stop - first);
    first = stop;
  }
}

void StepPlan::run(TaskRange body) const {
  run_tasks(elements_, static_cast<int64_t>(tasks_.size()) - 1, body);
}

// The kernel for a gradient, of Reduction or Accumulation.
template <class Kernels>
static auto kernel_for(const Kernels& kernels, DType type, Keep as) {
  if (as == Keep::kPlain) return kernels.plain[type];
  return as == Keep::kFloat16 ? kernels.float16 : kernels.bfloat16;
}

static const void* gradient_at(const Tensor& tensor, DType type, int64_t begin) {
  if (tensor.gradient == Keep::kPlain) return at(tensor.g, type, begin);
  return static_cast<const uint16_t*>(tensor.g) + begin;
}

// body(tensor, type, begin, end, number of the first block). Blocks begin at multiples of kSumBlock
// whatever the items: each belongs to the item in which it begins.
template <class Body>
void StepPlan::walk_blocks(const Body& body) const {
  run([&](int64_t first_task, int64_t last_task) {
    for (int64_t i = tasks_[first_task]; i < tasks_[last_task]; ++i) {
      const Item& item = items_[i];
      const Info& info = info_[item.tensor];
      const int64_t first = block_count(item.begin), begin = first * kSumBlock;
      const int64_t end = std::min(block_count(item.end) * kSumBlock, info.n);
      if (begin >= end) continue;
      body(tensors_[item.tensor], info.type, begin, end, info.first_block + first);
    }
  });
}

template <class Block>
void StepPlan::reduce(const Reduction<Block>& kernels, Block* blocks) const {
  walk_blocks([&](const Tensor& tensor, DType type, int64_t begin, int64_t end, int64_t first) {
    kernel_for(kernels, type, tensor.gradient)(gradient_at(tensor, type, begin), end - begin,
                                               blocks + first);
  });
}

void StepPlan::accumulate(double* blocks) const {
  const Accumulation& kernels = active_table().optim->accumulate;
  walk_blocks([&](const Tensor& tensor, DType type, int64_t begin, int64_t end, int64_t first) {
    kernel_for(kernels, type, tensor.gradient)(
        at(tensor.p, type, begin), gradient_at(tensor, type, begin), end - begin, blocks + first);
  });
}

int64_t StepPlan::all_blocks() {
  if (stale_) lay_out();
  return block_count_;
}

std::vector<double> StepPlan::gradient_block_sums() {
  if (stale_) lay_out();
  std::vector<double> blocks(block_count_);
  reduce(active_table().optim->sum_squares, blocks.data());
  return blocks;
}

std::vector<int64_t> StepPlan::block_counts() const {
  std::vector<int64_t> counts;
  for (const Info& info : info_) counts.push_back(info.present ? block_count(info.n) : 0);
  return counts;
}

double StepPlan::gradient_norm() {
  double sum = 0;
  for (double block : gradient_block_sums()) sum += block;
  return std::sqrt(sum);
}

std::vector<BlockSummary> StepPlan::summarize_gradients() {
  if (stale_) lay_out();
  std::vector<BlockSummary> blocks(block_count_), tensors;
  reduce(active_table().optim->summarize, blocks.data());
  const double inf = std::numeric_limits<double>::infinity();
  const BlockSummary* block = blocks.data();
  for (const Info& info : info_) {
    BlockSummary all{inf, -inf, 0, 0, 0};
    for (const BlockSummary* end = block + block_count(info.n); block != end; ++block)
      all = {std::min(all.min, block->min), std::max(all.max, block->max), all.sum + block->sum,
             all.sum_squares + block->sum_squares, all.nonfinite + block->nonfinite};
    tensors.push_back(all);
  }
  return tensors;
}

StepPlan::Outcome StepPlan::apply(const Options& options) {
  if (stale_) lay_out();
  Outcome outcome{std::numeric_limits<double>::quiet_NaN(), true};
  double scale = options.grad_scale;
  if (options.clip_norm > 0 || options.check_finite) {
    outcome.grad_norm = (options.norm ? *options.norm : gradient_norm()) * std::fabs(scale);
    outcome.applied = !options.check_finite || std::isfinite(outcome.grad_norm);
    const double coefficient = options.clip_norm / (outcome.grad_norm + 1e-6);
    const bool clips = options.clip_norm > 0 && !std::isinf(options.clip_norm);
    if (clips && !(coefficient >= 1)) scale *= coefficient;
  }
  if (!outcome.applied) return outcome;
  const OptimKernels& table = *active_table().optim;
  make_formulas(table, scale, options.zero_grads);
  run([&](int64_t first, int64_t last) { update(table, first, last); });
  return outcome;
}

void StepPlan::prepare(double scale, bool zero_grads) {
  if (stale_) lay_out();
  prepared_ = active_table().optim;
  make_formulas(*prepared_, scale, zero_grads);
}

void StepPlan::update_part(int64_t tensor, int64_t begin, int64_t end) const {
  const Info& info = info_[tensor];
  const Kernel::Typed& kernel = prepared_->kernels[groups_[info.group].kernel].typed[info.type];
  share_out(end - begin, 1, kStoredBlock, [&](int64_t first, int64_t last) {
    const Item item{tensor, begin + first, begin + last};
    kernel.update(segments_[info.segment].formula, tensors_.data(), &item, 1);
  });
}

void StepPlan::count(const Outcome& outcome) {
  if (!outcome.applied) return;
  for (Info& info : info_) info.steps += info.present;
  ++step_count_;
}

}  // namespace gradstep
