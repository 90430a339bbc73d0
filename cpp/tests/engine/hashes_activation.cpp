// Hashes of activations and losses, for test_hashes.
#include "tests/engine/hashes_activation.hpp"

#include <vector>

#include "engine/activation/elementwise.hpp"
#include "engine/activation/maxout.hpp"
#include "engine/activation/prelu.hpp"
#include "engine/activation/softmax.hpp"
#include "engine/activation/squared_error.hpp"
#include "engine/dispatch.hpp"

namespace gradstep::test {

namespace {

uint64_t hash_of(const void* data, size_t bytes, uint64_t hash = 0xcbf29ce484222325u) {
  for (size_t i = 0; i < bytes; ++i)
    hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
  return hash;
}

// Multiples of 2^-16 in [-16, 16), exact in both types.
template <class T>
std::vector<T> numbers(int64_t n, uint32_t seed) {
  std::vector<T> x(n);
  for (T& value : x) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<T>(static_cast<int32_t>(seed) >> 11) / 65536;
  }
  return x;
}

template <class T>
constexpr DType kType = sizeof(T) == 4 ? kFloat32 : kFloat64;

template <class T>
uint64_t elementwise(int index) {
  const int64_t n = 20011;
  const std::vector<T> x = numbers<T>(n, 1), dy = numbers<T>(n, 2);
  std::vector<T> y(n), dx(n);
  run_activation(index, kType<T>, 0.25, n, x.data(), y.data());
  run_activation_backward(index, kType<T>, 0.25, n, dy.data(), y.data(), dx.data());
  return hash_of(dx.data(), n * sizeof(T), hash_of(y.data(), n * sizeof(T)));
}

struct Shape {
  int64_t outer, n, inner;
};
constexpr Shape kShapes[] = {{37, 10, 1}, {5, 65, 1}, {2, 70000, 1}, {3, 7, 19}, {2, 4100, 5}};

template <class T>
uint64_t rows(SoftmaxKind kind) {
  uint64_t hash = hash_of(nullptr, 0);
  for (const Shape& shape : kShapes) {
    const int64_t count = shape.outer * shape.n * shape.inner,
                  row_count = shape.outer * shape.inner;
    const std::vector<T> x = numbers<T>(count, 3), dy = numbers<T>(count, 4);
    std::vector<T> y(count), weights(shape.n, T(1.5)), smooth(shape.n, T(0.125));
    std::vector<double> losses(row_count);
    std::vector<int64_t> targets(row_count);
    for (int64_t i = 0; i < row_count; ++i) targets[i] = i % shape.n;
    SoftmaxJob job{};
    job.kind = kind;
    job.rows = row_count;
    job.n = shape.n;
    job.inner = shape.inner;
    job.x = x.data();
    job.dy = dy.data();
    job.y = y.data();
    if (kind == kCrossEntropy) {
      job.targets = targets.data();
      job.ignored = 1;
      job.weights = weights.data();
      job.weight_sum = 1.5 * static_cast<double>(shape.n);
      job.smoothing = 0.25;
      job.smooth = smooth.data();
      job.scale = 0.5;
      job.losses = losses.data();
    }
    run_softmax(job, kType<T>);
    hash = hash_of(y.data(), count * sizeof(T), hash);
    hash = hash_of(losses.data(), row_count * sizeof(double), hash);
  }
  return hash;
}

template <class T>
uint64_t channels() {
  uint64_t hash = hash_of(nullptr, 0);
  for (const Shape& shape : {Shape{600, 70, 1}, Shape{3, 4, 5000}}) {
    const int64_t count = shape.outer * shape.n * shape.inner;
    const std::vector<T> x = numbers<T>(count, 5), dy = numbers<T>(count, 6);
    const std::vector<T> weight = numbers<T>(shape.n, 7);
    std::vector<T> y(count), dx(count), most(count / 2), dmost(count);
    std::vector<double> dweight(shape.n);
    PreluJob job{shape.outer,   shape.n,   shape.inner, x.data(),
                 weight.data(), dy.data(), y.data(),    nullptr};
    run_prelu(job, kType<T>);
    job.y = dx.data();
    run_prelu_backward(job, kType<T>, dweight.data());
    MaxoutJob pairs{shape.outer, shape.n / 2, 2, shape.inner, x.data(), nullptr, most.data()};
    run_maxout(pairs, kType<T>);
    pairs.dy = dy.data();
    pairs.y = dmost.data();
    run_maxout(pairs, kType<T>);
    for (const std::vector<T>* part : {&y, &dx, &most, &dmost})
      hash = hash_of(part->data(), part->size() * sizeof(T), hash);
    hash = hash_of(dweight.data(), shape.n * sizeof(double), hash);
    const double loss = run_mse(kType<T>, count, x.data(), dy.data(), y.data());
    hash = hash_of(y.data(), count * sizeof(T), hash_of(&loss, sizeof loss, hash));
  }
  return hash;
}

}  // namespace

void add_activation_hashes(std::map<std::string, uint64_t>* found) {
  const ActivationKernels& kernels = *active_table().activation;
  for (int i = 0; i < kernels.activation_count; ++i) {
    const std::string name = kernels.activations[i].name;
    (*found)[name + " float32"] = elementwise<float>(i);
    (*found)[name + " float64"] = elementwise<double>(i);
  }
  const std::pair<const char*, SoftmaxKind> kinds[] = {
      {"softmax", kSoftmax},
      {"log_softmax", kLogSoftmax},
      {"cross_entropy", kCrossEntropy},
      {"softmax_backward", kSoftmaxBackward},
      {"log_softmax_backward", kLogSoftmaxBackward}};
  for (const auto& [name, kind] : kinds) {
    (*found)[std::string(name) + " float32"] = rows<float>(kind);
    (*found)[std::string(name) + " float64"] = rows<double>(kind);
  }
  (*found)["prelu, maxout, mse float32"] = channels<float>();
  (*found)["prelu, maxout, mse float64"] = channels<double>();
}

}  // namespace gradstep::test
