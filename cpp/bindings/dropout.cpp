// Dropout: on elements, on groups, and its mask.
#include "engine/dropout/dropout.hpp"

#include "bindings/arguments.hpp"
#include "bindings/families.hpp"
#include "bindings/gil.hpp"
#include "bindings/memory.hpp"
#include "engine/dispatch.hpp"

namespace py = pybind11;

namespace gradstep {

namespace {

double check_probability(py::handle p) {
  constexpr const char* kRange = "a number in [0, 1]";
  const double value = check_number(p, "p", kRange);
  if (!(value >= 0 && value <= 1)) throw py::value_error("p: " + text(p) + ", expected " + kRange);
  return value;
}

DropoutRule check_rule(py::handle p, py::handle seed, py::handle offset) {
  return dropout_rule(check_probability(p), check_word(seed, "seed"), check_word(offset, "offset"));
}

// The arrays of a call, and what keeps them alive.
struct Checked {
  DropoutArrays arrays;
  Memory memory;
  py::array out;
  Shape shape;
};

Checked check_arrays(py::handle x, py::handle out, const std::string& argument) {
  const Input input = check_c_order(x, argument, kFloatTypes);
  Checked checked;
  checked.memory.reads(input, argument.c_str(), true);
  checked.out = checked.memory.result(out, input, argument.c_str());
  checked.arrays = {input.view.type, input.view.n, input.view.data, checked.out.mutable_data()};
  checked.shape = input.shape;
  return checked;
}

py::array apply(py::handle x, py::handle p, py::handle seed, py::handle offset, py::handle out,
                const std::string& argument, uint64_t first) {
  const DropoutRule rule = check_rule(p, seed, offset);
  const Checked checked = check_arrays(x, out, argument);
  without_gil(checked.arrays.n, [&] { dropout(rule, checked.arrays, first); });
  return checked.out;
}

py::array apply_alpha(py::handle x, py::handle p, py::handle seed, py::handle offset,
                      py::handle out, bool backward) {
  const DropoutRule rule = alpha_dropout_rule(check_probability(p), check_word(seed, "seed"),
                                              check_word(offset, "offset"));
  const Checked checked = check_arrays(x, out, backward ? "dy" : "x");
  without_gil(checked.arrays.n, [&] {
    if (backward)
      dropout(rule, checked.arrays, 0);
    else
      alpha_dropout(rule, checked.arrays, 0);
  });
  return checked.out;
}

void check_axes(const Shape& shape, size_t least, const char* of, const std::string& argument) {
  if (shape.size() >= least) return;
  throw py::value_error(argument + ": shape " + shape_text(shape) + ", expected at least " +
                        std::to_string(least) + (least > 1 ? " dimensions " : " dimension ") + of);
}

// A sample is one group.
DropoutGroups sample_groups(const Shape& shape, const std::string& argument) {
  check_axes(shape, 1, "(samples)", argument);
  return {shape[0], 1, 1, product(shape, 1, shape.size())};
}

// Samples are along axis 0, channels along `axis`.
DropoutGroups channel_groups(const Shape& shape, py::handle axis, const std::string& argument) {
  check_axes(shape, 2, "(samples, channels)", argument);
  const auto ndim = static_cast<int64_t>(shape.size());
  const std::string expected = "the axis of the channels, 1 to " + std::to_string(ndim - 1) +
                               " or negative, not that of the samples";
  const int64_t given = check_integer(axis, "axis", expected.c_str());
  const int64_t channels = given < 0 ? given + ndim : given;
  if (channels < 1 || channels >= ndim)
    throw py::value_error("axis: " + text(axis) + ", expected " + expected);
  return {shape[0], product(shape, 1, channels), shape[channels],
          product(shape, channels + 1, shape.size())};
}

py::array spatial_dropout(py::handle x, py::handle p, py::handle axis, py::handle seed,
                          py::handle offset, py::handle out, const std::string& argument) {
  const DropoutRule rule = check_rule(p, seed, offset);
  const Checked checked = check_arrays(x, out, argument);
  const DropoutGroups groups = channel_groups(checked.shape, axis, argument);
  without_gil(checked.arrays.n, [&] { group_dropout(rule, checked.arrays, groups); });
  return checked.out;
}

py::array drop_path(py::handle x, py::handle p, py::handle seed, py::handle offset, py::handle out,
                    const std::string& argument) {
  const DropoutRule rule = check_rule(p, seed, offset);
  const Checked checked = check_arrays(x, out, argument);
  const DropoutGroups groups = sample_groups(checked.shape, argument);
  without_gil(checked.arrays.n, [&] { group_dropout(rule, checked.arrays, groups); });
  return checked.out;
}

// Fills `keep`, a C-order array of bytes: one for each of n elements, or for eight.
void fill_mask(py::handle keep, int64_t n, py::handle p, py::handle seed, py::handle offset,
               bool packed, uint64_t first) {
  const DropoutRule rule = check_rule(p, seed, offset);
  if (!py::isinstance<py::array>(keep))
    throw py::type_error("keep: " + kind_of(keep) + ", expected a numpy.ndarray");
  auto array = py::reinterpret_borrow<py::array>(keep);
  const int64_t bytes = packed ? (n + 7) / 8 : n;
  if (n < 0 || !array.writeable() || !c_order(array) || array.nbytes() != bytes)
    throw py::value_error("keep: " + std::to_string(array.nbytes()) + " bytes, expected " +
                          std::to_string(bytes) + " that may be written, in C order");
  auto* kept = static_cast<uint8_t*>(array.mutable_data());
  without_gil(n, [&] { dropout_mask(rule, first, n, packed, kept); });
}

py::tuple philox_block(uint64_t seed, uint64_t offset, uint64_t block) {
  uint32_t words[kDropoutTileBlocks][4];
  active_table().dropout->words(seed, offset, block / kDropoutTileBlocks, words);
  const uint32_t* found = words[block % kDropoutTileBlocks];
  return py::make_tuple(found[0], found[1], found[2], found[3]);
}

}  // namespace

void define_dropout(py::module_& m) {
  using py::arg;
  m.def("dropout", apply, arg("x"), arg("p"), arg("seed"), arg("offset"), arg("out"),
        arg("argument"), arg("first") = 0);
  m.def("alpha_dropout", apply_alpha, arg("x"), arg("p"), arg("seed"), arg("offset"), arg("out"),
        arg("backward"));
  m.def("spatial_dropout", spatial_dropout, arg("x"), arg("p"), arg("axis"), arg("seed"),
        arg("offset"), arg("out"), arg("argument"));
  m.def("drop_path", drop_path, arg("x"), arg("p"), arg("seed"), arg("offset"), arg("out"),
        arg("argument"));
  m.def("dropout_mask", fill_mask, arg("keep"), arg("n"), arg("p"), arg("seed"), arg("offset"),
        arg("packed"), arg("first") = 0);
  m.def("philox_block", philox_block, arg("seed"), arg("offset"), arg("block"));
}

}  // namespace gradstep
