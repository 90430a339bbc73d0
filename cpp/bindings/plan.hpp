// StepPlan as Python sees it: arrays are checked when they are given, all before anything changes.
#pragma once
#include <array>

#include "bindings/gil.hpp"
#include "bindings/memory.hpp"
#include "engine/step/step_plan.hpp"

namespace gradstep {

// How elements are kept that arrays of a type stand for.
inline Keep keep_of(DType type) {
  switch (type) {
    case kBfloat16:
      return Keep::kBfloat16;
    case kFloat16:
      return Keep::kFloat16;
    case kInt8:
      return Keep::kSigned8;
    case kUint8:
      return Keep::kPositive8;
    default:
      return Keep::kPlain;
  }
}

class Plan {
 public:
  // What messages call the arrays that are updated, their states, and what is only read.
  using Labels = std::array<std::string, 3>;

  // groups: a sequence of (kernel name, names of its hyperparameters).
  // tensors: a sequence of (name, group number, parameter, state arrays...), all float32 or all
  // float64; a dict at the end tells what is kept otherwise (see take_layout), and a float32
  // parameter may then be a master.
  Plan(const pybind11::sequence& groups, const pybind11::sequence& tensors, Labels labels);

  void set_hyper(int group, const pybind11::sequence& values);
  void bind(const pybind11::sequence& grads);
  void unbind();
  // (number of steps taken, norm of the scaled gradients or None, whether this one was taken)
  pybind11::tuple step(pybind11::handle grads, double grad_scale, double clip_norm,
                       bool check_finite, bool zero_grads);
  // The same for those who know the norm of the gradients, unscaled.
  pybind11::tuple step_with_norm(double norm, pybind11::handle grads, double grad_scale,
                                 double clip_norm, bool check_finite, bool zero_grads);
  // A step in parts: `begin` checks and remembers grads, which need not hold their values yet;
  // `update_part` takes elements [start, stop) of a tensor, start a multiple of kSumBlock; `end`
  // counts the step, and returns the number of steps taken.
  void begin(const pybind11::sequence& grads, double grad_scale, bool zero_grads);
  void update_part(int64_t tensor, int64_t start, int64_t stop);
  int64_t end();
  // Checks grads (or the bound ones) as `step` would, and changes nothing.
  void check(pybind11::handle grads);
  // Parameters belong to others, who may have frozen, moved or resized them since.
  void check_parameters() const;

  // The sums of squares of each SUM_BLOCK elements of grads (or the bound ones), an array for each
  // tensor: see StepPlan::gradient_block_sums.
  pybind11::list gradient_block_sums(pybind11::handle grads);
  // Adds the gradients to the parameters, which have no layout, and writes such sums of these into
  // arrays of that many float64.
  void accumulate(pybind11::handle grads, const pybind11::sequence& sums);

  int64_t step_count() const;
  void set_step_count(int64_t count);
  std::vector<int64_t> steps() const;
  void set_steps(const std::vector<int64_t>& steps);

 private:
  // Where an array of a tensor's shape is, and by its type how far it goes.
  struct Extent {
    const void* data = nullptr;
    DType type = kFloat32;
    bool operator==(const Extent&) const = default;
  };
  struct Entry {
    pybind11::object name;
    std::vector<pybind11::object> states;
    Extent verified;  // of a gradient known not to overlap what is written
  };
  // An array of the caller's that steps write, as it was when it was checked.
  struct Parameter {
    pybind11::object array;
    ArrayView view;
    size_t entry;
    std::string argument;
  };
  struct Gradient {
    const void* data;
    bool present;
    DType type;
    pybind11::handle array;  // of NumPy, whose memory it is; null for one that was only read
  };
  // The gradients of a call, and what keeps their memory.
  struct Gradients {
    pybind11::tuple objects;
    std::vector<pybind11::object> imported;
    std::vector<Gradient> found;
    bool stay = false;  // for later calls, which would see a number as it is now
  };

  // Python code may run inside the checks of a call, and call again; other threads, whenever this
  // one gives up the GIL.
  class Busy {
   public:
    explicit Busy(Plan& plan);
    ~Busy() { flag_ = false; }

   private:
    OwnGil::Held held_;  // while the flag is looked at, and while it is taken back
    bool& flag_;
  };

  ArrayView take_state(Entry* entry, pybind11::object array, pybind11::handle parameter,
                       Types types);
  Layout take_layout(Entry* entry, const pybind11::dict& given, const ArrayView& p,
                     pybind11::handle parameter, const std::vector<ArrayView>& states,
                     std::vector<Parameter>* copies);
  pybind11::handle imported(pybind11::handle object, pybind11::handle name, Gradients* owner);
  Gradient check_gradient(int64_t tensor, pybind11::handle object, Gradients* owner);
  void check_gradients(pybind11::handle grads, Gradients* owner);
  void check_bound();
  Gradients& checked(pybind11::handle grads, Gradients* given);
  void check_zeroable(Gradients* gradients);
  void use(const Gradients& gradients);
  pybind11::tuple apply(pybind11::handle grads, const StepPlan::Options& options);

  Labels labels_;
  StepPlan plan_;
  WrittenMemory written_;
  std::vector<Entry> entries_;
  std::vector<Parameter> parameters_;  // one for each tensor, and then the copies
  std::vector<Types> gradient_types_;  // beside the parameter's own
  Gradients bound_;
  std::vector<Gradient> spare_;
  std::vector<Extent> zeroable_;  // of gradients known to overlap nothing
  bool is_bound_ = false, uses_bound_ = false;
  Gradients parts_;  // of a step in parts
  bool in_parts_ = false;
  mutable OwnGil gil_;
  bool busy_ = false;
};

}  // namespace gradstep
