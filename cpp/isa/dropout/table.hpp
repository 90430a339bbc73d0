// Plain data: what dropout needs of one ISA.
#pragma once
#include <cstdint>

#include "isa/table.hpp"

namespace gradstep {

// Elements of one tile of the stream: ranges of it begin at multiples of this.
inline constexpr int64_t kDropoutTile = 64;
// Blocks of four words that serve a tile.
inline constexpr int kDropoutTileBlocks = 8;

// Element i of the stream of (seed, offset) is kept when its 16 bits are >= threshold. What is kept
// becomes x scale (+ shift, in alpha dropout), the rest `dropped`, whatever it was.
struct DropoutRule {
  uint64_t seed, offset;
  uint32_t threshold;  // 0 to 65536
  double scale, shift, dropped;
};

struct DropoutKernels {
  // y[i] from x[i] and element first + i of the stream, for n elements; `first` is a multiple of
  // kDropoutTile. y may be x.
  ByType<void (*)(const DropoutRule&, uint64_t first, int64_t n, const void* x, void* y)> scale;
  ByType<void (*)(const DropoutRule&, uint64_t first, int64_t n, const void* x, void* y)> alpha;
  // One byte (1: kept) or one bit (lowest first, the last byte filled with 0) an element.
  void (*keep_bytes)(const DropoutRule&, uint64_t first, int64_t n, uint8_t* keep);
  void (*keep_bits)(const DropoutRule&, uint64_t first, int64_t n, uint8_t* keep);
  // The same by given bytes, and where all is kept.
  ByType<void (*)(double scale, int64_t n, const void* x, const uint8_t* keep, void* y)>
      scale_by_bytes;
  ByType<void (*)(double scale, int64_t n, const void* x, void* y)> scale_all;
  // Copies past the cache; fence() before another thread may look.
  ByType<void (*)(int64_t n, const void* x, void* y)> copy_past_cache;
  void (*fence)();
  // The words of all blocks of a tile, for known-answer tests.
  void (*words)(uint64_t seed, uint64_t offset, uint64_t tile, uint32_t (*words)[4]);
};

}  // namespace gradstep
