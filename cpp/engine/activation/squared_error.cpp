#include "engine/activation/squared_error.hpp"

#include <vector>

#include "engine/dispatch.hpp"
#include "engine/dtype.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

double run_mse(DType type, int64_t n, const void* prediction, const void* target, void* gradient) {
  const int64_t count = (n + kSumBlock - 1) / kSumBlock;
  std::vector<double> blocks(count);
  const double scale = 2 / static_cast<double>(n);
  share_out(n, 1, kSumBlock, [&](int64_t begin, int64_t end) {
    active_table().loss->squared_error[type](end - begin, at(prediction, type, begin),
                                             at(target, type, begin), at(gradient, type, begin),
                                             scale, blocks.data() + begin / kSumBlock);
  });
  double sum = 0;
  for (double block : blocks) sum += block;
  return sum / static_cast<double>(n);
}

}  // namespace gradstep
