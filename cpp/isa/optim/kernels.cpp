// Compiled once per ISA with -DGRADSTEP_ISA=<name> and that ISA's flags; exports its table and
// nothing else.
#include <cstring>
#include <utility>

#include "isa/optim/assignments.hpp"
#include "isa/optim/gradient_sums.hpp"
#include "isa/optim/optimizers.hpp"
#include "isa/optim/stored.hpp"

namespace gradstep::GRADSTEP_ISA::optim {

// What a Formula holds.
template <class T, template <class> class F>
struct Compiled {
  Preparation<T> prepare;
  F<T> formula;
  Weights weights;
  int64_t step;
  bool zero_gradient;
};

template <class T, template <class> class F>
static void make(const Hyper& hyper, Formula* formula) {
  typedef Compiled<T, F> C;
  static_assert(sizeof(C) <= sizeof(Formula) && alignof(C) <= alignof(Formula));
  static_assert(__is_trivially_copyable(C));
  const C compiled{Preparation<T>(hyper), F<T>(hyper), Weights(hyper), hyper.step,
                   hyper.zero_gradient};
  __builtin_memcpy(formula->bytes, &compiled, sizeof compiled);
}

template <class T, template <class> class F, int... kState>
static void update_items(const Formula& formula, const Tensor* tensors, const Item* items,
                         int64_t count) {
  Compiled<T, F> c = *reinterpret_cast<const Compiled<T, F>*>(formula.bytes);
  for (const Item* item = items; item != items + count; ++item) {
    const Tensor& tensor = tensors[item->tensor];
    const int64_t n = item->end - item->begin;
    const Item* next =
        item + 1 == items + count || item[1].tensor != item->tensor ? item : item + 1;
    const int64_t reach = next->end - item->begin;
    if constexpr (sizeof(T) == 4) {
      if (tensor.layout || tensor.gradient != Keep::kPlain) {
        update_stored<F<T>, kState...>(c.formula, c.prepare, c.weights, c.step, c.zero_gradient,
                                       *item, reach, tensor);
        continue;
      }
    }
    T* p = static_cast<T*>(tensor.p) + item->begin;
    const T* g = static_cast<const T*>(tensor.g) + item->begin;
    if (c.prepare.active)
      update_prepared(c.formula, c.prepare, n, reach, p, g,
                      (static_cast<T*>(tensor.state[kState]) + item->begin)...);
    else
      update(c.formula, n, reach, p, g, (static_cast<T*>(tensor.state[kState]) + item->begin)...);
    // While it is in cache.
    if (c.zero_gradient) std::memset(const_cast<T*>(g), 0, static_cast<size_t>(n) * sizeof(T));
  }
}

#define TYPED(enumerator, type, text) {make<type, F>, update_items<type, F, kState...>},
template <template <class> class F, int... kState, class... Names>
static constexpr Kernel row(std::integer_sequence<int, kState...>, const char* name,
                            Names... states) {
  return {name, sizeof...(Names), {states...}, {STORAGE_TYPES(TYPED)}};
}

template <template <class> class F, class... Names>
static constexpr Kernel row(const char* name, Names... states) {
  static_assert(sizeof...(Names) <= kMaxStates);
  return row<F>(std::make_integer_sequence<int, sizeof...(Names)>{}, name, states...);
}

#define ROW(Name, ...) row<Name>(#Name __VA_OPT__(, ) __VA_ARGS__),
static constexpr Kernel kKernels[] = {OPTIMIZERS(ROW) ASSIGNMENTS(ROW)};
#define COUNT(Name, ...) +1
static constexpr int kOptimizerCount = 0 OPTIMIZERS(COUNT);

#define REDUCTION(f, Block)                                       \
  {BY_TYPE(f), reduce_stored<storage::Bfloat16, Block, f<float>>, \
   reduce_stored<storage::Float16, Block, f<float>>}

extern const OptimKernels kTable;
const OptimKernels kTable = {kKernels,
                             sizeof kKernels / sizeof *kKernels,
                             kOptimizerCount,
                             REDUCTION(sum_squares, double),
                             REDUCTION(summarize, BlockSummary),
                             {BY_TYPE(accumulate), accumulate_stored<storage::Bfloat16>,
                              accumulate_stored<storage::Float16>}};

}  // namespace gradstep::GRADSTEP_ISA::optim
