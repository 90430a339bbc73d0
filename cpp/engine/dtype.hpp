// Element types and places in arrays of them.
#pragma once
#include <type_traits>

#include "isa/table.hpp"

namespace gradstep {

inline int64_t bytes_of(DType type) { return type == kFloat32 ? 4 : 8; }

template <class P>
P* at(P* data, DType type, int64_t element) {
  typedef std::conditional_t<std::is_const_v<P>, const char, char> Byte;
  return static_cast<Byte*>(data) + element * bytes_of(type);
}

}  // namespace gradstep
