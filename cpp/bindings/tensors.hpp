// torch's tensors in calls: their own memory as it is, and results from torch's own allocator.
#pragma once
#include <array>

#include "bindings/library.hpp"
#include "engine/thread_pool.hpp"

namespace gradstep {

// Which of a call's inputs (x, weight, bias) a gradient is asked for.
struct Needs {
  std::array<bool, 3> of{};
  explicit Needs(pybind11::handle flags);
};

class Tensors final : public Library {
 public:
  // channels_last: x and what is like it are in torch's memory format of that name, and are seen
  // as (N, ..., C).
  explicit Tensors(bool channels_last = false) : channels_last_(channels_last) {}
  // For a backward call; weight: None, or the tensor whose shape the parameters have.
  Tensors(const Needs& needs, pybind11::handle weight, bool channels_last = false)
      : channels_last_(channels_last), needs_(&needs), weight_(weight) {}

  Input read(pybind11::handle object, Access access, const char* argument) const override;
  Input read_like(pybind11::handle object, const Input& model, const char* argument,
                  const char* model_argument) const override;
  Input read_shaped(pybind11::handle object, Access access, const char* argument,
                    const Shape& shape, DType type, const char* model_argument) const override;
  NewArray result(pybind11::handle out, const Input& model, const char* model_argument,
                  Memory* memory) const override;
  NewArray gradient(const Input& x, const Numbers& like, const Shape& shape,
                    Parameter parameter) const override;

 private:
  bool channels_last_;
  const Needs* needs_ = nullptr;
  pybind11::handle weight_;
};

// Whether x is a plain (N, C, ...) tensor in the memory format channels_last or channels_last_3d,
// and not contiguous too.
bool is_channels_last(pybind11::handle x);

// The sizes in a torch.Size, tuple or list.
Shape check_sizes(pybind11::handle sizes);

// (dx, dweight, dbias) as an autograd function returns them: None for what needs none, and for
// `others`, inputs that have no gradient.
pybind11::tuple gradients(const pybind11::tuple& found, const Needs& needs, int others);

// Whether a tracer, a transform or a dispatch mode wants to see torch's own operators.
bool is_watched();

// The call's result, computed on torch's team; None where an argument is none that it takes, or
// where somebody watches. Then
// nothing was written, and torch's own operators have their turn, to compute or to raise.
template <class Call>
pybind11::object on_tensors(const Call& call) {
  struct Team {
    const bool before = ThreadPool::use_team(true);
    ~Team() { ThreadPool::use_team(before); }
  } team;
  if (is_watched()) return pybind11::none();
  try {
    return call();
  } catch (const pybind11::type_error&) {
    return pybind11::none();
  } catch (const pybind11::value_error&) {
    return pybind11::none();
  }
}

}  // namespace gradstep
