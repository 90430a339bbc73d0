// Hashes of what every kernel computes, on every ISA of this machine, against the committed ones:
// test_hashes hashes.txt compares, test_hashes --write prints a new file.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "engine/dispatch.hpp"
#include "engine/step/step_plan.hpp"
#include "engine/thread_pool.hpp"
#include "tests/engine/hashes_activation.hpp"
#include "tests/engine/hashes_dropout.hpp"
#include "tests/engine/hashes_norm.hpp"

using namespace gradstep;

namespace {

struct Fnv {
  uint64_t hash = 0xcbf29ce484222325u;
  void add(const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i)
      hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
  }
};

// Multiples of 2^-20 in [-1, 1), exact in both types, some of them small or zero.
template <class T>
std::vector<T> numbers(int64_t n, uint32_t seed) {
  std::vector<T> x(n);
  for (T& value : x) {
    seed = seed * 1664525u + 1013904223u;
    const int32_t drawn = static_cast<int32_t>(seed) >> 11 >> (seed >> 8 & 7);
    value = static_cast<T>(drawn) / 1048576;
  }
  return x;
}

const std::map<std::string, double> kHyper = {{"lr", 0.01},
                                              {"momentum", 0.9},
                                              {"dampening", 0.25},
                                              {"lr_in_momentum", 0},
                                              {"lr_decay", 0.1},
                                              {"eps", 1e-8},
                                              {"alpha", 0.99},
                                              {"rho", 0.9},
                                              {"beta1", 0.9},
                                              {"beta2", 0.999},
                                              {"decay", 0.01},
                                              {"momentum_decay", 0.004},
                                              {"beta", 0.99},
                                              {"maximize", 0},
                                              {"clip_value", __builtin_inf()},
                                              {"l1", 0},
                                              {"l2", 0}};

template <class T>
uint64_t steps(int kernel, bool prepared) {
  const int64_t n = 3 * 8192 + 1041;
  std::vector<std::string> names;
  std::vector<double> values;
  std::map<std::string, double> hyper = kHyper;
  if (prepared) {
    hyper["maximize"] = 1;
    hyper["clip_value"] = 0.125;
    hyper["l1"] = hyper["l2"] = 0.001;
  }
  for (const auto& [name, value] : hyper) names.push_back(name), values.push_back(value);
  StepPlan plan;
  std::string missing;
  plan.add_group(kernel, names, &missing);
  plan.set_hyper(0, values.data());
  std::vector<T> p = numbers<T>(n, 1), g = numbers<T>(n, 2);
  std::vector<T> states[kMaxStates];
  void* pointers[kMaxStates];
  for (int i = 0; i < kMaxStates; ++i) states[i].resize(n), pointers[i] = states[i].data();
  plan.add_tensor(0, sizeof(T) == 4 ? kFloat32 : kFloat64, n, p.data(), pointers);
  plan.set_gradient(0, g.data(), true);
  for (int step = 0; step < 12; ++step) {
    const std::vector<T> drawn = numbers<T>(n, 3 + step);
    std::copy(drawn.begin(), drawn.end(), g.begin());
    plan.step({prepared ? 0.5 : 1.0, prepared ? 10.0 : 0.0, false});
  }
  Fnv fnv;
  fnv.add(p.data(), n * sizeof(T));
  for (const std::vector<T>& state : states) fnv.add(state.data(), n * sizeof(T));
  return missing.empty() ? fnv.hash : 0;
}

// Adam on arrays that are kept in 16 and 8 bits.
uint64_t stored_steps(Keep parameter, Keep first, Keep second, Keep gradient) {
  const int64_t n = 3 * 8192 + 1041, blocks = (n + kScaleBlock - 1) / kScaleBlock;
  std::vector<std::string> names;
  std::vector<double> values;
  for (const auto& [name, value] : kHyper) names.push_back(name), values.push_back(value);
  StepPlan plan;
  std::string missing;
  plan.add_group(kernel_index("Adam"), names, &missing);
  plan.set_hyper(0, values.data());
  // Room for the widest kind; what is plain begins as ones.
  const std::vector<float> ones(n, 1);
  std::vector<float> p(ones), m(n), v(n), m_scales(blocks), v_scales(blocks);
  std::vector<uint16_t> low(n), copy(n), g(n);
  Layout layout;
  layout.p = {parameter, low.data()};
  layout.state[0] = {first, m_scales.data()};
  layout.state[1] = {second, v_scales.data()};
  if (parameter == Keep::kPlain) layout.copy = copy.data(), layout.copy_as = gradient;
  layout.seed = 0x123456789abcdefu, layout.first_tile = int64_t{1} << 29;
  --layout.first_tile;  // the high word of the counter changes after the first tile
  if (parameter != Keep::kPlain) std::fill_n(reinterpret_cast<uint16_t*>(p.data()), n, 0x3f80);
  void* states[] = {m.data(), v.data(), nullptr};
  plan.add_tensor(0, kFloat32, n, p.data(), states, &layout);
  plan.set_gradient(0, g.data(), true, gradient);
  for (int step = 0; step < 12; ++step) {
    // Bits below infinity, of every exponent that float16 has; bfloat16 of magnitudes around 1.
    const std::vector<float> drawn = numbers<float>(n, 3 + step);
    for (int64_t i = 0; i < n; ++i) {
      uint32_t bits;
      std::memcpy(&bits, &drawn[i], sizeof bits);
      g[i] =
          static_cast<uint16_t>(gradient == Keep::kFloat16 ? (bits >> 12 & 0xfbffu) : bits >> 16);
    }
    plan.step({1.0, 10.0, false});
  }
  Fnv fnv;
  for (const std::vector<float>* x : {&p, &m, &v, &m_scales, &v_scales})
    fnv.add(x->data(), x->size() * sizeof(float));
  for (const std::vector<uint16_t>* x : {&low, &copy}) fnv.add(x->data(), x->size() * 2);
  return missing.empty() ? fnv.hash : 0;
}

template <class T>
uint64_t sums() {
  Fnv fnv;
  for (int64_t n : {1, 15, 17, 4095, 4096, 4097, 20000}) {
    const std::vector<T> x = numbers<T>(n, 77);
    const int type = sizeof(T) == 4 ? kFloat32 : kFloat64;
    std::vector<double> blocks((n + kSumBlock - 1) / kSumBlock);
    std::vector<BlockSummary> summaries(blocks.size());
    active_table().optim->sum_squares.plain[type](x.data(), n, blocks.data());
    active_table().optim->summarize.plain[type](x.data(), n, summaries.data());
    fnv.add(blocks.data(), blocks.size() * sizeof(double));
    fnv.add(summaries.data(), summaries.size() * sizeof(BlockSummary));
  }
  return fnv.hash;
}

std::map<std::string, uint64_t> all_hashes() {
  std::map<std::string, uint64_t> found;
  const OptimKernels& table = *active_table().optim;
  for (int i = 0; i < table.kernel_count; ++i) {
    const std::string name = table.kernels[i].name;
    found[name + " float32"] = steps<float>(i, false);
    found[name + " float64"] = steps<double>(i, false);
    found[name + " float32 prepared"] = steps<float>(i, true);
    found[name + " float64 prepared"] = steps<double>(i, true);
  }
  const auto stored = [&](const char* name, Keep p, Keep m, Keep v, Keep g) {
    found[std::string("Adam stored ") + name] = stored_steps(p, m, v, g);
  };
  stored("plain, bfloat16 copy", Keep::kPlain, Keep::kPlain, Keep::kPlain, Keep::kBfloat16);
  stored("plain, float16 copy", Keep::kPlain, Keep::kBfloat16, Keep::kPlain, Keep::kFloat16);
  stored("split", Keep::kSplit, Keep::kBfloat16, Keep::kBfloat16, Keep::kBfloat16);
  stored("split, 8 bits", Keep::kSplit, Keep::kSigned8, Keep::kPositive8, Keep::kBfloat16);
  stored("bfloat16", Keep::kBfloat16, Keep::kBfloat16, Keep::kBfloat16, Keep::kFloat16);
  stored("bfloat16, 8 bits", Keep::kBfloat16, Keep::kSigned8, Keep::kPositive8, Keep::kBfloat16);
  found["sums float32"] = sums<float>();
  found["sums float64"] = sums<double>();
  add_dropout_hashes(found);
  test::add_activation_hashes(&found);
  add_norm_hashes(&found);
  return found;
}

std::map<std::string, uint64_t> read(const char* path) {
  std::map<std::string, uint64_t> expected;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (!line.empty() && line[0] != '#')
      expected[line.substr(17)] = std::stoull(line.substr(0, 16), nullptr, 16);
  return expected;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return std::fprintf(stderr, "usage: test_hashes FILE | --write\n"), 2;
  if (!std::strcmp(arguments[1], "--write")) {
    std::printf("# FNV-1a of results after 12 steps: the same on every ISA and architecture.\n");
    for (const auto& [name, hash] : all_hashes())
      std::printf("%016llx %s\n", static_cast<unsigned long long>(hash), name.c_str());
    return 0;
  }
  const auto expected = read(arguments[1]);
  int passed = 0, failed = 0;
  for (const KernelTable* table : supported_tables())
    for (int threads : {1, 2, 3}) {
      activate_table(table->isa);
      ThreadPool::instance().set_threads(threads);
      const auto found = all_hashes();
      (found.size() == expected.size() ? passed : failed)++;
      for (const auto& [name, hash] : found) {
        const auto entry = expected.find(name);
        const bool good = entry != expected.end() && entry->second == hash;
        (good ? passed : failed)++;
        if (!good)
          std::printf("%s, %d threads: %s is %016llx\n", table->isa, threads, name.c_str(),
                      static_cast<unsigned long long>(hash));
      }
    }
  for (const KernelTable* table : supported_tables()) std::printf("ran on %s\n", table->isa);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
