// One step over many tensors: everything that does not change between steps is computed when the
// tensors are added; a step is then one walk over one list, with one fork and one join.
#pragma once
#include <deque>
#include <string>
#include <vector>

#include "engine/thread_pool.hpp"
#include "isa/optim/table.hpp"

namespace gradstep {

class StepPlan {
 public:
  struct Options {
    double grad_scale = 1;         // multiplies every gradient
    double clip_norm = 0;          // largest L2 norm of all gradients together; <= 0: none
    bool check_finite = false;     // do nothing when a gradient is not finite
    bool zero_grads = false;       // fill the gradients with zeros once they are used
    const double* norm = nullptr;  // of the gradients, unscaled, where it is known
  };
  struct Outcome {
    double grad_norm;  // of the scaled gradients; NaN where neither option asked for it
    bool applied;
  };

  // Returns the group's number. `kernel` is a position in the kernel table; `names` are those of
  // the hyperparameters that set_hyper will give. On a formula that asks for another, `missing`
  // receives its name.
  int add_group(int kernel, const std::vector<std::string>& names, std::string* missing);
  // `layout`: how arrays are kept that are not all of `type`, which is float32 then.
  void add_tensor(int group, DType type, int64_t n, void* p, void* const* states,
                  const Layout* layout = nullptr);

  size_t hyper_count(int group) const { return groups_[group].names.size(); }
  void set_hyper(int group, const double* values);
  // A tensor without a gradient is left alone by `step`, its step counter too.
  void set_gradient(int64_t tensor, const void* g, bool present, Keep as = Keep::kPlain);
  // `apply` may fail, for want of memory, before it writes; `count` then takes the step into the
  // counters, for those who apply while others may read them.
  Outcome step(const Options& options) {
    const Outcome outcome = apply(options);
    count(outcome);
    return outcome;
  }
  Outcome apply(const Options& options);
  // The same in parts, for gradients that come in parts: `prepare`, `update_part` for elements that
  // begin at a multiple of kStoredBlock, and `count`.
  void prepare(double scale, bool zero_grads);
  void update_part(int64_t tensor, int64_t begin, int64_t end) const;
  void count(const Outcome& outcome);

  // L2 norm of all gradients together, unscaled: blocks in any order, their sums in index order.
  double gradient_norm();
  // What that adds up, one after the other: the sum of squares of each kSumBlock elements, tensor
  // after tensor. Where arrays are divided among processes at multiples of kSumBlock, the sums of
  // all are those of the whole, so their norm is the same to the bit.
  std::vector<double> gradient_block_sums();
  // Adds the gradients to the parameters, and gives such sums of squares of what these are then;
  // `blocks` has room for one of every block.
  void accumulate(double* blocks) const;
  int64_t all_blocks();  // of the sums over all present tensors
  // How many of these belong to each tensor: none without a gradient.
  std::vector<int64_t> block_counts() const;
  // Of every tensor's gradient, in order; none is skipped.
  std::vector<BlockSummary> summarize_gradients();

  int64_t size() const { return static_cast<int64_t>(tensors_.size()); }
  int64_t elements() const { return elements_; }
  int64_t step_count() const { return step_count_; }  // steps that were applied
  void set_step_count(int64_t count) { step_count_ = count; }
  int64_t steps(int64_t tensor) const { return info_[tensor].steps; }
  void set_steps(int64_t tensor, int64_t steps);

 private:
  struct Group {
    int kernel;
    std::vector<uint64_t> names;
    std::vector<double> values;
  };
  struct Info {
    int group;
    DType type;
    bool present;
    int64_t n, steps;
    int64_t first_block;  // of its sums, among those of all present tensors
    size_t segment;
  };
  // Consecutive items that one formula serves.
  struct Segment {
    int64_t first, last;  // items
    int64_t tensor;       // one of them: its group, type and step are those of all
    Formula formula;
  };

  void lay_out();
  void make_formulas(const OptimKernels& table, double scale, bool zero_grads);
  void update(const OptimKernels& table, int64_t first_task, int64_t last_task) const;
  template <class Body>
  void walk_blocks(const Body& body) const;
  template <class Block>
  void reduce(const Reduction<Block>& kernels, Block* blocks) const;
  void run(TaskRange body) const;

  std::vector<Group> groups_;
  std::vector<Tensor> tensors_;
  std::vector<Info> info_;
  std::deque<Layout> layouts_;  // tensors point here
  int64_t elements_ = 0, step_count_ = 0;

  bool stale_ = true;  // what follows must be laid out again
  std::vector<Item> items_;
  std::vector<int64_t> tasks_;  // first item of each task, and the number of items
  std::vector<Segment> segments_;
  const OptimKernels* prepared_ = nullptr;  // those whose formulas the segments have
  int64_t block_count_ = 0;                 // of the sums over all present tensors
};

}  // namespace gradstep
