// Allocations that fail on demand, for tests: after n - 1 more of this module's, the n-th does, as
// in SQLite's out-of-memory tests. The linker sends the module's `operator new` here (--wrap), so
// nobody else's is touched. At rest it costs one load.
#include <atomic>
#include <cstdint>
#include <new>

#include "bindings/families.hpp"

namespace py = pybind11;

namespace {

std::atomic<int64_t> left{0};  // until one fails; 0: none does

bool fails() noexcept {
  return left.load(std::memory_order_relaxed) > 0 &&
         left.fetch_sub(1, std::memory_order_relaxed) == 1;
}

}  // namespace

extern "C" {
void* __real__Znwm(size_t size);
void* __real__Znam(size_t size);
void* __real__ZnwmSt11align_val_t(size_t size, std::align_val_t alignment);

void* __wrap__Znwm(size_t size) {
  if (fails()) throw std::bad_alloc();
  return __real__Znwm(size);
}
void* __wrap__Znam(size_t size) {
  if (fails()) throw std::bad_alloc();
  return __real__Znam(size);
}
void* __wrap__ZnwmSt11align_val_t(size_t size, std::align_val_t alignment) {
  if (fails()) throw std::bad_alloc();
  return __real__ZnwmSt11align_val_t(size, alignment);
}
}

namespace gradstep {

void define_allocation(py::module_& m) {
  // Returns how many were still to come of those asked for before: 0 where one has failed.
  m.def("fail_allocation", [](int64_t n) { return left.exchange(n, std::memory_order_relaxed); });
}

}  // namespace gradstep
