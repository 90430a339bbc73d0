#include "engine/activation/squared_error.hpp"

#include <vector>

#include "engine/dispatch.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

namespace {

int64_t size_of(DType type) { return type == kFloat32 ? 4 : 8; }

const char* at(const void* p, int64_t bytes) { return static_cast<const char*>(p) + bytes; }
char* at(void* p, int64_t bytes) { return static_cast<char*>(p) + bytes; }

}  // namespace

double run_mse(DType type, int64_t n, const void* prediction, const void* target, void* gradient) {
  const int64_t size = size_of(type), count = (n + kSumBlock - 1) / kSumBlock;
  std::vector<double> blocks(count);
  const double scale = 2 / static_cast<double>(n);
  share_out(n, 1, kSumBlock, [&](int64_t begin, int64_t end) {
    active_table().loss->squared_error[type](end - begin, at(prediction, begin * size),
                                             at(target, begin * size), at(gradient, begin * size),
                                             scale, &blocks[begin / kSumBlock]);
  });
  double sum = 0;
  for (double block : blocks) sum += block;
  return sum / static_cast<double>(n);
}

}  // namespace gradstep
