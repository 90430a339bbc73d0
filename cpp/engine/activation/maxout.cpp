#include "engine/activation/maxout.hpp"

#include "engine/dispatch.hpp"
#include "engine/share_out.hpp"

namespace gradstep {

static const ActivationKernels& kernels() { return *active_table().activation; }

void run_maxout(const MaxoutJob& job, DType type) {
  share_out(job.outer * job.channels, job.inner * job.pieces, 1, [&](int64_t begin, int64_t end) {
    (job.dy == nullptr ? kernels().maxout : kernels().maxout_backward)[type](job, begin, end);
  });
}

}  // namespace gradstep
