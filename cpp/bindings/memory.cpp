#include "bindings/memory.hpp"

#include <algorithm>

namespace py = pybind11;

namespace gradstep {

namespace {

constexpr const char* kOut = "out";

std::string clash(const std::string& what, bool same, const std::string& other) {
  return what + (same ? ": the same memory as " : ": overlaps ") + other +
         ", expected memory of its own";
}

}  // namespace

void Memory::add(const void* data, int64_t bytes, const char* argument, bool written,
                 bool may_be_out, py::object owner) {
  const char* begin = static_cast<const char*>(data);
  ranges_.at(count_++) = {begin, begin + bytes, argument, written, may_be_out, std::move(owner)};
}

void Memory::reads(const Input& input, const char* argument, bool may_be_out) {
  add(input.view.data, input.view.bytes(), argument, false, may_be_out, input.array);
}

void Memory::reads(py::object owner, const void* data, int64_t bytes, const char* argument) {
  add(data, bytes, argument, false, false, std::move(owner));
}

void Memory::writes(const Input& input, const char* argument) {
  add(input.view.data, input.view.bytes(), argument, true, false, input.array);
}

void Memory::check() const {
  for (size_t i = 0; i < count_; ++i)
    for (size_t j = i + 1; j < count_; ++j) {
      const Range *a = &ranges_[i], *b = &ranges_[j];
      const bool apart = a->begin >= b->end || b->begin >= a->end;
      if (apart || a->begin == a->end || b->begin == b->end || (!a->written && !b->written))
        continue;
      if (!b->written) std::swap(a, b);
      const bool same = a->begin == b->begin && a->end == b->end;
      const bool is_out = a->may_be_out && b->argument == kOut;
      if (same && is_out) continue;
      std::string message = clash(b->argument, same, a->argument);
      if (is_out) message += std::string(" or exactly ") + a->argument;
      throw py::value_error(message);
    }
}

py::array Memory::checked_out(py::handle out, const ArrayView& view) {
  add(view.data, view.bytes(), kOut, true, false, py::reinterpret_borrow<py::object>(out));
  check();
  return py::reinterpret_borrow<py::array>(out);
}

py::array Memory::result(py::handle out, const Input& model, const char* model_argument) {
  if (!out.is_none())
    return checked_out(out, check_like(out, model.array, Access::kWrite, "out", model_argument));
  check();
  return new_like(model.array, model.view.type);
}

py::array Memory::result(py::handle out, const Shape& shape, DType type,
                         const char* model_argument) {
  if (!out.is_none())
    return checked_out(out,
                       check_shaped(out, Access::kWrite, "out", shape, type, model_argument).view);
  check();
  return new_array(type, shape);
}

void WrittenMemory::add(const ArrayView& array, const std::string& argument, py::handle name) {
  if (array.n == 0) return;
  const char* begin = static_cast<const char*>(array.data);
  ranges_.push_back(
      {begin, begin + array.bytes(), argument, py::reinterpret_borrow<py::object>(name)});
}

void WrittenMemory::finish() {
  std::stable_sort(ranges_.begin(), ranges_.end(),
                   [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < ranges_.size(); ++i) {
    const Range &a = ranges_[i - 1], &b = ranges_[i];
    if (b.begin >= a.end) continue;
    throw py::value_error(clash(label(b.argument, b.name), a.begin == b.begin && a.end == b.end,
                                label(a.argument, a.name)));
  }
}

void WrittenMemory::check_read(const ArrayView& array, const void* same,
                               const std::string& argument, py::handle name) const {
  if (array.n == 0 || array.data == same) return;
  const char* begin = static_cast<const char*>(array.data);
  const char* end = begin + array.bytes();
  const auto next = std::upper_bound(ranges_.begin(), ranges_.end(), begin,
                                     [](const char* at, const Range& r) { return at < r.end; });
  if (next == ranges_.end() || next->begin >= end) return;
  throw py::value_error(label(argument, name) + ": overlaps " + label(next->argument, next->name) +
                        ", which this call writes");
}

}  // namespace gradstep
