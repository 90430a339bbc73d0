// The floating-point control state of a thread: rounding, and what becomes of denormal numbers.
#pragma once
#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace gradstep {

// Without the sticky exception flags.
inline uint64_t float_control() noexcept {
#if defined(__SSE__)
  return _mm_getcsr() & ~static_cast<unsigned>(_MM_EXCEPT_MASK);
#elif defined(__aarch64__)
  uint64_t fpcr;
  asm volatile("mrs %0, fpcr" : "=r"(fpcr));
  return fpcr;
#else
  return 0;
#endif
}

inline void set_float_control([[maybe_unused]] uint64_t state) noexcept {
#if defined(__SSE__)
  _mm_setcsr(static_cast<unsigned>(state));
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" ::"r"(state));
#endif
}

// The bits that take denormal results and operands for zeros: FTZ and DAZ of MXCSR, FZ of FPCR.
#if defined(__SSE__)
inline constexpr uint64_t kFlushDenormals = 0x8040;
#elif defined(__aarch64__)
inline constexpr uint64_t kFlushDenormals = 1 << 24;
#else
inline constexpr uint64_t kFlushDenormals = 0;
#endif

// Sets these bits in this thread to those of `bits`; returns what they were.
inline uint64_t flush_denormals(uint64_t bits) noexcept {
  const uint64_t before = float_control();
  set_float_control((before & ~kFlushDenormals) | (bits & kFlushDenormals));
  return before & kFlushDenormals;
}

}  // namespace gradstep
