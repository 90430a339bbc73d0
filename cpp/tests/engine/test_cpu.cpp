#include "engine/cpu.hpp"
#include "engine/dispatch.hpp"
#include "tests/check.hpp"

using namespace gradstep;

// A Skylake server under an operating system that saves all of its registers.
CpuWords server() {
  CpuWords words;
  words.leaf1_ecx = 0x7ffefbff;
  words.leaf7_ebx = 0xd39ffffb;
  words.extended1_ecx = 0x121;
  words.saved = 0x2e7;
  return words;
}

TEST(nothing_is_missing_on_a_server) {
  CHECK_EQUAL(missing_for_avx2(server()), "");
  CHECK_EQUAL(missing_for_avx512(server()), "");
}

TEST(avx512_without_short_vectors_and_bytes_falls_to_avx2) {
  CpuWords words = server();  // as Knights Landing
  words.leaf7_ebx &= ~(1u << 17 | 1u << 30 | 1u << 31);
  CHECK_EQUAL(missing_for_avx2(words), "");
  CHECK_EQUAL(missing_for_avx512(words), "avx512dq, avx512bw, avx512vl");
}

TEST(registers_that_are_not_saved_are_not_used) {
  CpuWords words = server();
  words.saved = 0x7;
  CHECK_EQUAL(missing_for_avx2(words), "");
#if !defined(__APPLE__)
  CHECK_EQUAL(missing_for_avx512(words), "zmm registers saved by the operating system");
#endif
  words.saved = 0x3;
  CHECK_EQUAL(missing_for_avx2(words), "ymm registers saved by the operating system");
}

TEST(an_old_cpu_lacks_what_it_lacks) {
  CpuWords words = server();  // as Ivy Bridge
  words.leaf1_ecx &= ~(1u << 12 | 1u << 22);
  words.leaf7_ebx = 0;
  words.extended1_ecx = 1;
  CHECK_EQUAL(missing_for_avx2(words), "fma, movbe, bmi, avx2, bmi2, lzcnt");
}

TEST(no_words_are_no_level) {
  CHECK(!missing_for_avx2(CpuWords{}).empty());
  CHECK_EQUAL(missing_features().size() + supported_tables().size(), compiled_isas().size());
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
TEST(the_compiler_finds_the_same_on_this_cpu) {
  const CpuWords words = cpu_words();
  CHECK_EQUAL(missing_for_avx2(words).empty(),
              __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"));
  CHECK_EQUAL(missing_for_avx512(words).empty(),
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"));
}
#endif
