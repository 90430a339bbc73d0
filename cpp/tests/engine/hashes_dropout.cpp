#include "tests/engine/hashes_dropout.hpp"

#include <vector>

#include "engine/dropout/dropout.hpp"

using namespace gradstep;

namespace {

constexpr int64_t kCount = 20'000;

uint64_t fnv(const void* data, size_t bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < bytes; ++i)
    hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
  return hash;
}

// work(arrays) on 1, 2, ... / 64, in place.
template <class T, class Work>
uint64_t hash_of(const Work& work) {
  std::vector<T> x(kCount);
  for (int64_t i = 0; i < kCount; ++i) x[i] = static_cast<T>(i + 1) / 64;
  work(DropoutArrays{sizeof(T) == 4 ? kFloat32 : kFloat64, kCount, x.data(), x.data()});
  return fnv(x.data(), kCount * sizeof(T));
}

template <class T>
void add_typed(const std::string& type, std::map<std::string, uint64_t>& found) {
  constexpr uint64_t kSeed = 0x123456789abcdef0u, kOffset = 0xfedcba9876543210u;
  const DropoutRule rule = dropout_rule(0.3, kSeed, kOffset);
  const uint64_t border = (uint64_t{1} << 35) - 8192;  // where the high word of a block changes
  found["dropout " + type] =
      hash_of<T>([&](const DropoutArrays& arrays) { dropout(rule, arrays, border); });
  found["alpha dropout " + type] = hash_of<T>([&](const DropoutArrays& arrays) {
    alpha_dropout(alpha_dropout_rule(0.3, kSeed, kOffset), arrays, 0);
  });
  found["group dropout " + type] =
      hash_of<T>([&](const DropoutArrays& arrays) { group_dropout(rule, arrays, {2, 50, 40, 5}); });
  found["group dropout of long runs " + type] = hash_of<T>(
      [&](const DropoutArrays& arrays) { group_dropout(rule, arrays, {2, 2, 50, 100}); });
}

}  // namespace

void add_dropout_hashes(std::map<std::string, uint64_t>& found) {
  add_typed<float>("float32", found);
  add_typed<double>("float64", found);
  for (const bool packed : {false, true}) {
    std::vector<uint8_t> keep(packed ? (kCount + 7) / 8 : kCount);
    dropout_mask(dropout_rule(0.7, 1, 2), 64, kCount - 3, packed, keep.data());
    found[packed ? "dropout mask packed" : "dropout mask"] = fnv(keep.data(), keep.size());
  }
}
