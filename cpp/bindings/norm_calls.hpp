// Norms of tensors as torch's autograd records them.
#pragma once
#include "bindings/tensors.hpp"

namespace gradstep {

// What backward has to know of a call. Options that a kind does not have stay as here.
struct NormCall {
  enum Kind { kLayer, kRms, kGroup, kInstance, kBatch };
  Kind kind;
  pybind11::object eps;
  int64_t axes = 0;         // trailing ones of weight and bias; 0: these are by channel
  pybind11::object groups;  // None: one for every channel
  bool training = true, relu = false;
};

// What autograd brings to a backward call. statistics: those of the forward call.
struct NormGradients {
  pybind11::handle dy, x, weight, bias;
  pybind11::tuple statistics;
  pybind11::handle needs;
};

// The result of found = (result, statistics...) for these inputs, recorded by autograd where one of
// them wants a gradient. None for `call`, or nothing found: `found` itself.
pybind11::object recorded(pybind11::handle call, pybind11::handle x, pybind11::handle weight,
                          pybind11::handle bias, const pybind11::object& found);

// Gradients as an autograd function with the inputs (x, weight, bias, call, found) returns them, or
// None where these are not for our kernels.
pybind11::object row_norm_gradients(const NormCall& call, const NormGradients& given);
pybind11::object group_norm_gradients(const NormCall& call, const NormGradients& given);
pybind11::object batch_norm_gradients(const NormCall& call, const NormGradients& given);

}  // namespace gradstep
