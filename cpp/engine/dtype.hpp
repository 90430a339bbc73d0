// Element types: their size and name, places in arrays of them, and templates chosen by them.
#pragma once
#include <type_traits>

#include "isa/table.hpp"

namespace gradstep {

struct DTypeInfo {
  int64_t bytes;
  const char* name;
};

inline constexpr DTypeInfo kDTypeInfo[kAllDTypes] = {
#define INFO_(enumerator, type, name) {sizeof(type), name},
    STORAGE_TYPES(INFO_) KEPT_TYPES(INFO_)
#undef INFO_
};

constexpr int64_t bytes_of(DType type) { return kDTypeInfo[type].bytes; }
constexpr const char* name_of(DType type) { return kDTypeInfo[type].name; }

// Largest of all types.
constexpr int64_t largest_bytes() {
  int64_t bytes = 0;
  for (const DTypeInfo& info : kDTypeInfo) bytes = info.bytes > bytes ? info.bytes : bytes;
  return bytes;
}

template <class P>
P* at(P* data, DType type, int64_t element) {
  typedef std::conditional_t<std::is_const_v<P>, const char, char> Byte;
  return static_cast<Byte*>(data) + element * bytes_of(type);
}

// f.operator()<T>() with the T of `type`, one that formulas compute in.
template <class F>
decltype(auto) with_type(DType type, const F& f) {
  switch (type) {
#define CASE_(enumerator, T, name) \
  case enumerator:                 \
    return f.template operator()<T>();
    STORAGE_TYPES(CASE_)
#undef CASE_
    default:
      break;
  }
  __builtin_unreachable();
}

inline double value_at(const void* data, DType type, int64_t i) {
  return with_type(type,
                   [&]<class T>() { return static_cast<double>(static_cast<const T*>(data)[i]); });
}

inline void set_value(void* data, DType type, int64_t i, double value) {
  with_type(type, [&]<class T>() { static_cast<T*>(data)[i] = static_cast<T>(value); });
}

}  // namespace gradstep
