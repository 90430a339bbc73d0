#include "engine/activation/prelu.hpp"

#include <algorithm>
#include <vector>

#include "engine/dispatch.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

static const ActivationKernels& kernels() { return *active_table().activation; }

void run_prelu(const PreluJob& job, DType type) {
  const bool innermost = job.inner == 1;
  share_out(innermost ? job.outer : job.outer * job.channels, innermost ? job.channels : job.inner,
            1, [&](int64_t begin, int64_t end) { kernels().prelu[type](job, begin, end); });
}

void run_prelu_backward(PreluJob job, DType type, double* dweight) {
  const bool innermost = job.inner == 1;
  const int64_t rows = innermost ? job.outer : job.outer * job.channels;
  const int64_t chunks = (job.outer + kChannelRows - 1) / kChannelRows;
  const int64_t blocks = (job.inner + kSumBlock - 1) / kSumBlock;
  std::vector<double> partials(innermost ? chunks * job.channels : rows * blocks);
  job.partials = partials.data();
  share_out(rows, innermost ? job.channels : job.inner, innermost ? kChannelRows : 1,
            [&](int64_t begin, int64_t end) { kernels().prelu_backward[type](job, begin, end); });
  std::fill_n(dweight, job.channels, 0.0);
  for (int64_t i = 0; innermost && i < chunks * job.channels; ++i)
    dweight[i % job.channels] += partials[i];
  for (int64_t i = 0; !innermost && i < rows * blocks; ++i)
    dweight[i / blocks % job.channels] += partials[i];
}

}  // namespace gradstep
