// What this CPU and its operating system run. Asked of the CPU itself: __builtin_cpu_supports needs
// a run-time library that has looked, and not every build brings one.
#pragma once
#include <cstdint>
#include <string>

namespace gradstep {

// The words of cpuid, and of xgetbv, that tell it; all 0 where there are none.
struct CpuWords {
  uint32_t leaf1_ecx = 0, leaf7_ebx = 0, extended1_ecx = 0;
  uint64_t saved = 0;  // registers that the operating system saves: XCR0
};

CpuWords cpu_words() noexcept;

// What is missing of all that -march=x86-64-v3, or -v4 with `avx512`, lets a compiler use, as in
// "avx512vl, avx512bw"; empty: nothing.
std::string missing_for_avx2(const CpuWords& words);
std::string missing_for_avx512(const CpuWords& words);

}  // namespace gradstep
