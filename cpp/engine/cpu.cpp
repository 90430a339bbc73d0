#include "engine/cpu.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace gradstep {

CpuWords cpu_words() noexcept {
  CpuWords words;
#if defined(__x86_64__)
  uint32_t eax, ebx, ecx, edx;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) words.leaf1_ecx = ecx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) words.leaf7_ebx = ebx;
  if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx)) words.extended1_ecx = ecx;
  constexpr uint32_t kHasXgetbv = 1u << 27;  // and the system has switched it on
  if (words.leaf1_ecx & kHasXgetbv) {
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    words.saved = uint64_t{high} << 32 | low;
  }
#endif
  return words;
}

namespace {

struct Feature {
  const char* name;
  uint32_t CpuWords::* word;
  int bit;
};

// Intel's manual, volume 2, CPUID; AMD's, volume 3, appendix E.
constexpr Feature kAvx2[] = {
    {"sse3", &CpuWords::leaf1_ecx, 0},     {"ssse3", &CpuWords::leaf1_ecx, 9},
    {"fma", &CpuWords::leaf1_ecx, 12},     {"cx16", &CpuWords::leaf1_ecx, 13},
    {"sse4.1", &CpuWords::leaf1_ecx, 19},  {"sse4.2", &CpuWords::leaf1_ecx, 20},
    {"movbe", &CpuWords::leaf1_ecx, 22},   {"popcnt", &CpuWords::leaf1_ecx, 23},
    {"avx", &CpuWords::leaf1_ecx, 28},     {"f16c", &CpuWords::leaf1_ecx, 29},
    {"bmi", &CpuWords::leaf7_ebx, 3},      {"avx2", &CpuWords::leaf7_ebx, 5},
    {"bmi2", &CpuWords::leaf7_ebx, 8},     {"lahf", &CpuWords::extended1_ecx, 0},
    {"lzcnt", &CpuWords::extended1_ecx, 5}};
constexpr Feature kAvx512[] = {{"avx512f", &CpuWords::leaf7_ebx, 16},
                               {"avx512dq", &CpuWords::leaf7_ebx, 17},
                               {"avx512cd", &CpuWords::leaf7_ebx, 28},
                               {"avx512bw", &CpuWords::leaf7_ebx, 30},
                               {"avx512vl", &CpuWords::leaf7_ebx, 31}};

// Of XCR0: SSE and the upper halves of ymm; then the masks, the upper halves of zmm, and zmm16 on.
[[maybe_unused]] constexpr uint64_t kYmm = 0x6, kZmm = 0xe0;

template <int kCount>
void add_missing(const CpuWords& words, const Feature (&features)[kCount], uint64_t registers,
                 const char* unsaved, std::string* missing) {
  const auto add = [&](const char* name) {
    *missing += (missing->empty() ? "" : ", ") + std::string(name);
  };
  for (const Feature& feature : features)
    if (!(words.*feature.word >> feature.bit & 1)) add(feature.name);
  if ((words.saved & registers) != registers) add(unsaved);
}

}  // namespace

std::string missing_for_avx2(const CpuWords& words) {
  std::string missing;
  add_missing(words, kAvx2, kYmm, "ymm registers saved by the operating system", &missing);
  return missing;
}

std::string missing_for_avx512(const CpuWords& words) {
  std::string missing = missing_for_avx2(words);
#if defined(__APPLE__)
  constexpr uint64_t kAsked = 0;  // macOS saves them from the first use on, and shows that then
#else
  constexpr uint64_t kAsked = kZmm;
#endif
  add_missing(words, kAvx512, kAsked, "zmm registers saved by the operating system", &missing);
  return missing;
}

}  // namespace gradstep
