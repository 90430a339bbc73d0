// Batch norm of oneDNN 2 or 3, driven by commands on stdin (see onednn.py):
//   setup kind layout n c h w   kind: forward, inference or backward; layout: nchw, nhwc or blocked
//   feed                        floats of x (and dy), each n c h w of them in the plain order, then
//                               c each of weight, bias, mean, variance (the last two: inference)
//   run k                       answers the seconds of k calls
//   results                     floats of y, or of dx, dweight and dbias
#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dnnl.hpp>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

using dnnl::memory;
using Flags = dnnl::normalization_flags;
using Forward = dnnl::batch_normalization_forward;
using Backward = dnnl::batch_normalization_backward;

namespace {

constexpr float kEps = 1e-5f;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

// Pages as large as the system allows, like those of NumPy, and all of them written.
memory allocate(const memory::desc& desc) {
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  const std::size_t size = (desc.get_size() + kHugePage - 1) / kHugePage * kHugePage;
  void* data = std::aligned_alloc(kHugePage, size);
  if (data == nullptr) throw std::bad_alloc();
  madvise(data, size, MADV_HUGEPAGE);
  std::memset(data, 0, size);
  return memory(desc, engine(), data);
}

memory::desc floats(const memory::dims& dims, memory::format_tag tag) {
  return memory::desc(dims, memory::data_type::f32, tag);
}

void read(memory& target) {
  const std::size_t size = target.get_desc().get_size();
  if (std::fread(target.get_data_handle(), 1, size, stdin) != size)
    throw std::runtime_error("input ended early");
}

void write(const memory& source) {
  const std::size_t size = source.get_desc().get_size();
  std::fwrite(source.get_data_handle(), 1, size, stdout);
}

#if DNNL_VERSION_MAJOR >= 3
Forward::primitive_desc forward_of(dnnl::prop_kind kind, const memory::desc& desc, Flags flags) {
  return Forward::primitive_desc(engine(), kind, desc, desc, kEps, flags);
}
Backward::primitive_desc backward_of(const memory::desc& desc, Flags flags,
                                     const Forward::primitive_desc& hint) {
  return Backward::primitive_desc(engine(), dnnl::prop_kind::backward, desc, desc, desc, kEps,
                                  flags, hint);
}
#else
Forward::primitive_desc forward_of(dnnl::prop_kind kind, const memory::desc& desc, Flags flags) {
  return Forward::primitive_desc(Forward::desc(kind, desc, kEps, flags), engine());
}
Backward::primitive_desc backward_of(const memory::desc& desc, Flags flags,
                                     const Forward::primitive_desc& hint) {
  const Backward::desc wanted(dnnl::prop_kind::backward, desc, desc, kEps, flags);
  return Backward::primitive_desc(wanted, engine(), hint);
}
#endif

// AVX-512 takes 16 channels to a block, AVX2 and SSE 8.
memory::format_tag blocked() {
  const auto isa = dnnl::get_effective_cpu_isa();
  const bool wide = isa != dnnl::cpu_isa::sse41 && isa != dnnl::cpu_isa::avx &&
                    isa != dnnl::cpu_isa::avx2 && isa != dnnl::cpu_isa::avx2_vnni;
  return wide ? memory::format_tag::nChw16c : memory::format_tag::nChw8c;
}

class BatchNorm {
 public:
  BatchNorm(const std::string& kind, const std::string& layout, const memory::dims& dims)
      : inference_(kind == "inference"),
        backward_(kind == "backward"),
        stream_(engine()),
        order_(floats(dims, layout == "nhwc" ? memory::format_tag::nhwc : memory::format_tag::nchw)),
        data_(floats(dims, layout == "blocked" ? blocked() : order_tag(layout))),
        channels_(floats({dims[1]}, memory::format_tag::a)) {
    for (memory* big : {&x_, &dy_, &y_, &dx_}) *big = allocate(data_);
    for (memory* small : {&weight_, &bias_, &mean_, &variance_, &dweight_, &dbias_})
      *small = allocate(channels_);
    Flags flags = Flags::use_scale | Flags::use_shift;
    if (inference_) flags |= Flags::use_global_stats;
    const auto propagation =
        inference_ ? dnnl::prop_kind::forward_inference : dnnl::prop_kind::forward_training;
    const auto desc = forward_of(propagation, data_, flags);
    forward_ = Forward(desc);
    if (backward_) primitive_ = Backward(backward_of(data_, flags, desc));
    else primitive_ = forward_;
  }

  void feed() {
    fill(x_);
    if (backward_) fill(dy_);
    for (memory* small : {&weight_, &bias_}) read(*small);
    if (inference_)
      for (memory* small : {&mean_, &variance_}) read(*small);
    if (backward_) execute(forward_, of_forward());
  }

  double run(long calls) {
    using Clock = std::chrono::steady_clock;
    const auto arguments = backward_ ? of_backward() : of_forward();
    const auto start = Clock::now();
    for (long i = 0; i < calls; ++i) execute(primitive_, arguments);
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  void results() {
    memory plain = allocate(order_);
    memory& result = backward_ ? dx_ : y_;
    dnnl::reorder(result, plain).execute(stream_, result, plain);
    stream_.wait();
    write(plain);
    std::free(plain.get_data_handle());
    if (!backward_) return;
    write(dweight_);
    write(dbias_);
  }

 private:
  using Arguments = std::unordered_map<int, memory>;

  static memory::format_tag order_tag(const std::string& layout) {
    return layout == "nhwc" ? memory::format_tag::nhwc : memory::format_tag::nchw;
  }

  void fill(memory& target) {
    memory plain = allocate(order_);
    read(plain);
    dnnl::reorder(plain, target).execute(stream_, plain, target);
    stream_.wait();
    std::free(plain.get_data_handle());
  }

  void execute(const dnnl::primitive& primitive, const Arguments& arguments) {
    primitive.execute(stream_, arguments);
    stream_.wait();
  }

  Arguments of_forward() const {
    return {{DNNL_ARG_SRC, x_},      {DNNL_ARG_DST, y_},     {DNNL_ARG_SCALE, weight_},
            {DNNL_ARG_SHIFT, bias_}, {DNNL_ARG_MEAN, mean_}, {DNNL_ARG_VARIANCE, variance_}};
  }

  Arguments of_backward() const {
    return {{DNNL_ARG_SRC, x_},
            {DNNL_ARG_MEAN, mean_},
            {DNNL_ARG_VARIANCE, variance_},
            {DNNL_ARG_DIFF_DST, dy_},
            {DNNL_ARG_SCALE, weight_},
            {DNNL_ARG_SHIFT, bias_},  // read by oneDNN 2 only
            {DNNL_ARG_DIFF_SRC, dx_},
            {DNNL_ARG_DIFF_SCALE, dweight_},
            {DNNL_ARG_DIFF_SHIFT, dbias_}};
  }

  bool inference_, backward_;
  dnnl::stream stream_;
  memory::desc order_, data_, channels_;
  memory x_, dy_, y_, dx_, weight_, bias_, mean_, variance_, dweight_, dbias_;
  Forward forward_;
  dnnl::primitive primitive_;
};

int serve() {
  char kind[16], layout[16];
  long n, c, h, w, calls;
  if (std::scanf("setup %15s %15s %ld %ld %ld %ld", kind, layout, &n, &c, &h, &w) != 6) return 1;
  BatchNorm work(kind, layout, {n, c, h, w});
  char command[16];
  while (std::scanf("%15s", command) == 1) {
    const std::string wanted(command);
    if (wanted == "run" && std::scanf("%ld", &calls) == 1)
      std::printf("%.9f\n", work.run(calls));
    else if (wanted == "feed" && std::getchar() == '\n')
      work.feed(), std::puts("fed");
    else if (wanted == "results")
      work.results();
    else
      return 1;
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main() {
  try {
    return serve();
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 1;
  }
}
