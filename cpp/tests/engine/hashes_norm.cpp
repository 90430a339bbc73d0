// Hashes of what normalisation computes, over every layout, type and tail.
#include "tests/engine/hashes_norm.hpp"

#include <vector>

#include "engine/norm/batch_norm.hpp"
#include "engine/norm/group_norm.hpp"
#include "engine/norm/row_norm.hpp"

using namespace gradstep;

namespace {

class Hash {
 public:
  template <class T>
  void add(const std::vector<T>& values) {
    for (const T& value : values) {
      unsigned char bytes[sizeof(T)];
      __builtin_memcpy(bytes, &value, sizeof(T));
      for (unsigned char byte : bytes) hash_ = (hash_ ^ byte) * 0x100000001b3u;
    }
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

// Multiples of 2^-20 in [1, 3), exact in both types.
template <class T>
std::vector<T> numbers(int64_t n, uint32_t seed) {
  std::vector<T> x(n);
  for (T& value : x) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<T>(static_cast<int32_t>(seed) >> 11) / 1048576 + 2;
  }
  return x;
}

template <class T>
constexpr DType kType = sizeof(T) == 4 ? kFloat32 : kFloat64;

template <class T>
Numbers view(std::vector<T>& values) {
  return {values.data(), kType<T>};
}

template <class T>
void add_batch(const NormShape& shape, bool training, bool relu, Hash* hash) {
  const int64_t n = shape.elements(), channels = shape.channels;
  std::vector<T> x = numbers<T>(n, 1), dy = numbers<T>(n, 2), y(n);
  std::vector<T> weight = numbers<T>(channels, 3), bias = numbers<T>(channels, 4);
  std::vector<T> means = numbers<T>(channels, 5), variances = numbers<T>(channels, 6);
  std::vector<double> mean(channels), invstd(channels);
  for (T& b : bias) b -= 2;
  forward(BatchNormForward{shape, x.data(), y.data(), view(weight), view(bias), view(means),
                           view(variances), training, relu, 0.1, 1e-5, mean.data(), invstd.data()});
  for (const auto& values : {y, means, variances}) hash->add(values);
  for (const auto& values : {mean, invstd}) hash->add(values);
  std::vector<T> dweight(channels), dbias(channels);
  backward(BatchNormBackward{shape, dy.data(), x.data(), y.data(), view(weight), view(bias),
                             view(dweight), view(dbias), training, relu, mean.data(),
                             invstd.data()});
  for (const auto& values : {y, dweight, dbias}) hash->add(values);
}

template <class T>
void add_rows(int64_t rows, int64_t size, bool centred, Hash* hash) {
  std::vector<T> x = numbers<T>(rows * size, 1), dy = numbers<T>(rows * size, 2), y(rows * size);
  std::vector<T> weight = numbers<T>(size, 3), bias = numbers<T>(size, 4);
  std::vector<T> dweight(size), dbias(size);
  std::vector<double> mean(rows), invstd(rows);
  RowNorm job{kType<T>, rows,         size,        dy.data(),     x.data(),
              y.data(), view(weight), view(bias),  view(dweight), view(dbias),
              centred,  1e-5,         mean.data(), invstd.data()};
  forward(job);
  hash->add(y);
  backward(job);
  for (const auto& values : {y, dweight, dbias}) hash->add(values);
}

template <class T>
void add_groups(int64_t samples, int64_t channels, int64_t groups, int64_t size, Hash* hash) {
  const int64_t n = samples * channels * size;
  std::vector<T> x = numbers<T>(n, 1), dy = numbers<T>(n, 2), y(n);
  std::vector<T> weight = numbers<T>(channels, 3), bias = numbers<T>(channels, 4);
  std::vector<T> dweight(channels), dbias(channels);
  std::vector<double> mean(samples * groups), invstd(samples * groups);
  const GroupNorm job{kType<T>,      samples,     channels, groups,       size,
                      dy.data(),     x.data(),    y.data(), view(weight), view(bias),
                      view(dweight), view(dbias), 1e-5,     mean.data(),  invstd.data()};
  forward(job);
  hash->add(y);
  backward(job);
  for (const auto& values : {y, dweight, dbias}) hash->add(values);
}

template <class T>
void add_type(const std::string& type, std::map<std::string, uint64_t>* found) {
  const std::vector<NormShape> shapes[2] = {{{kSpatialLanes, kType<T>, 3, 5, 49},
                                             {kSpatialLanes, kType<T>, 40, 40, 33},
                                             {kSpatialLanes, kType<T>, 2, 2, 9001}},
                                            {{kChannelLanes, kType<T>, 1500, 3, 1},
                                             {kChannelLanes, kType<T>, 1101, 67, 1},
                                             {kChannelLanes, kType<T>, 37, 1029, 1}}};
  for (int lanes = 0; lanes < 2; ++lanes)
    for (bool training : {true, false})
      for (bool relu : {false, true}) {
        Hash hash;
        for (const NormShape& shape : shapes[lanes]) add_batch<T>(shape, training, relu, &hash);
        (*found)[std::string("batch norm, ") + (lanes ? "channel" : "spatial") + " lanes" +
                 (training ? "" : ", running") + (relu ? ", relu " : " ") + type] = hash.value();
      }
  for (bool centred : {true, false}) {
    Hash hash;
    add_rows<T>(131, 77, centred, &hash);
    add_rows<T>(3, 9001, centred, &hash);
    (*found)[(centred ? "layer norm " : "rms norm ") + type] = hash.value();
  }
  Hash hash;
  add_groups<T>(3, 12, 4, 33, &hash);
  add_groups<T>(2, 4, 4, 5003, &hash);
  (*found)["group norm " + type] = hash.value();
}

}  // namespace

void add_norm_hashes(std::map<std::string, uint64_t>* found) {
  add_type<float>("float32", found);
  add_type<double>("float64", found);
}
