// Whose memory a call reads and writes: nothing that it writes may be anything else of the call, in
// whole or in part, but where that means to work in place.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "bindings/arrays.hpp"

namespace gradstep {

// The memory of one call of a function. What it is given is kept alive until the call ends.
class Memory {
 public:
  void reads(const Input& input, const char* argument, bool may_be_out = false);
  // Other memory of n bytes, kept alive by `owner`.
  void reads(pybind11::object owner, const void* data, int64_t bytes, const char* argument);
  void writes(const Input& input, const char* argument);
  // The array for the result, like `model`: new for None, else `out`, which may be one of the big
  // inputs, exactly. Called when all else is known.
  pybind11::array result(pybind11::handle out, const Input& model, const char* model_argument);
  // The same for a result of a shape of its own.
  pybind11::array result(pybind11::handle out, const Shape& shape, DType type,
                         const char* model_argument);
  // Raises ValueError where something overlaps; `result` does it itself.
  void check() const;

 private:
  struct Range {
    const char *begin, *end;
    const char* argument;
    bool written, may_be_out;
    pybind11::object owner;
  };
  pybind11::array checked_out(pybind11::handle out, const ArrayView& view);

  void add(const void* data, int64_t bytes, const char* argument, bool written, bool may_be_out,
           pybind11::object owner);

  std::array<Range, 8> ranges_;
  size_t count_ = 0;
};

// The same for the many arrays of a plan: what is written is sorted once, and what is read is
// looked up in it.
class WrittenMemory {
 public:
  void add(const ArrayView& array, const std::string& argument, pybind11::handle name);
  // Raises ValueError when an array meets one added before.
  void finish();
  // Raises ValueError when `array`, which is only read, meets written memory other than `same`, of
  // which it may be an exact alias.
  void check_read(const ArrayView& array, const void* same, const std::string& argument,
                  pybind11::handle name) const;

 private:
  struct Range {
    const char *begin, *end;
    std::string argument;
    pybind11::object name;
  };
  std::vector<Range> ranges_;  // sorted once finished
};

}  // namespace gradstep
