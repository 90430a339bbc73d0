// Random bits by counter: Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random
// numbers: as easy as 1, 2, 3"). Key: the seed, low word first. Counter: the number of the block in
// words 0 and 1, the call's offset in words 2 and 3, so no two offsets share a counter.
//
// Stream version 1. A block of four words serves eight elements with 16 bits each. Elements come in
// tiles of 64, four rows of 16 virtual lanes: of tile t, lane l takes block 8 t + l / 2, and rows 0
// to 3 are the low half of word l % 2, its high half, the low half of word 2 + l % 2, its high
// half. With one word per 64-bit lane of a vector this is the order in which the words lie: nothing
// is transposed on any ISA, and the widening product needs no room made for it.
#pragma once
#include "isa/simd.hpp"

namespace gradstep::GRADSTEP_ISA {

inline constexpr int64_t kTile = 64;  // elements
inline constexpr int kTileBlocks = 8;

// The generator of one seed and offset for blocks whose number has the same high word. Words 1 to 3
// of the counter are then constants, and so is half of the first two rounds. (Ten rounds have a
// margin; seven already pass all of the paper's tests.)
template <int kRounds = 10>
class Philox {
 public:
  static constexpr uint32_t kMultiply0 = 0xD2511F53u, kMultiply1 = 0xCD9E8D57u;
  static constexpr uint32_t kStep0 = 0x9E3779B9u, kStep1 = 0xBB67AE85u;
  static constexpr int kWidth = kBytes / 8;  // blocks at a time

  ALWAYS_INLINE Philox(uint64_t seed, uint64_t offset, uint32_t block_high) {
    for (int i = 0; i < kWidth; ++i) lane_[i] = i;
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    const uint64_t y = (offset & 0xffffffffu) * kMultiply1;
    const uint64_t x = static_cast<uint32_t>((y >> 32) ^ block_high ^ key0) * uint64_t{kMultiply0};
    first_ = u64{} + ((offset >> 32) ^ key1);
    key0 += kStep0, key1 += kStep1;
    second0_ = u64{} + (static_cast<uint32_t>(y) ^ key0);
    second1_ = u64{} + ((x >> 32) ^ key1);
    third_ = u64{} + x;
    for (int i = 0; i < kRounds - 2; ++i) {
      key0 += kStep0, key1 += kStep1;
      key_[i][0] = u64{} + key0, key_[i][1] = u64{} + key1;
    }
  }

  // The words of kWidth blocks from `block` (the low word of its number) on, pairs of words in the
  // 32-bit lanes: words 0 and 1 of every block in pair[0], words 2 and 3 in pair[1].
  ALWAYS_INLINE void operator()(uint32_t block, u32 pair[2]) const {
    u64 a = lane_ + block, b, c, d;
    u64 x = multiply_low32(a, kMultiply0);
    c = (x >> 32) ^ first_, d = x;
    u64 y = multiply_low32(c, kMultiply1);
    a = (y >> 32) ^ second0_, b = y;
    c = d ^ second1_, d = third_;
    for (int i = 0; i < kRounds - 2; ++i) {
      // The high halves of a to d are dirty; no product sees them.
      x = multiply_low32(a, kMultiply0), y = multiply_low32(c, kMultiply1);
      a = (y >> 32) ^ b ^ key_[i][0];
      c = (x >> 32) ^ d ^ key_[i][1];
      b = y, d = x;
    }
    pair[0] = (u32)((a & 0xffffffffu) | (b << 32));
    pair[1] = (u32)((c & 0xffffffffu) | (d << 32));
  }

 private:
  u64 lane_, first_, second0_, second1_, third_;
  u64 key_[kRounds - 2][2];
};

}  // namespace gradstep::GRADSTEP_ISA
