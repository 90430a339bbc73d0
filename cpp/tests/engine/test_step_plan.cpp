#include <cmath>
#include <string>
#include <vector>

#include "engine/dispatch.hpp"
#include "engine/share_out.hpp"
#include "engine/step/step_plan.hpp"
#include "engine/thread_pool.hpp"
#include "tests/check.hpp"

using namespace gradstep;

static const std::vector<std::string> kNames = {"lr", "maximize", "clip_value",
                                                "l1", "l2",       "decay"};

static void add_sgd(StepPlan& plan, double lr) {
  std::string missing;
  const int group = plan.add_group(kernel_index("SGD"), kNames, &missing);
  CHECK_EQUAL(missing, "");
  const double values[] = {lr, 0, HUGE_VAL, 0, 0, 0};
  plan.set_hyper(group, values);
}

TEST(every_element_of_every_tensor_is_updated_once) {
  for (int threads : {1, 2, 5}) {
    ThreadPool::instance().set_threads(threads);
    StepPlan plan;
    add_sgd(plan, 1);
    std::vector<std::vector<double>> p, g;
    for (int64_t n : {0, 1, 5, 4096, 8191, 8192, 8193, 0, 50000, 3})
      p.emplace_back(n, 1.0), g.emplace_back(n, 0.25);
    for (int i = 0; i < 2000; ++i) p.emplace_back(64, 1.0), g.emplace_back(64, 0.25);
    for (size_t i = 0; i < p.size(); ++i) {
      plan.add_tensor(0, kFloat64, static_cast<int64_t>(p[i].size()), p[i].data(), nullptr);
      plan.set_gradient(static_cast<int64_t>(i), g[i].data(), true);
    }
    CHECK(plan.step({}).applied);
    for (const auto& values : p)
      for (double value : values)
        if (value != 0.75) CHECK_EQUAL(value, 0.75);
    CHECK_EQUAL(plan.steps(3), 1);
  }
}

TEST(groups_and_types_mix_in_one_step) {
  StepPlan plan;
  add_sgd(plan, 1);
  add_sgd(plan, 2);
  std::vector<float> a(100, 1.0f), ga(100, 0.5f), c(9000, 1.0f), gc(9000, 0.5f);
  std::vector<double> b(100, 1.0), gb(100, 0.5);
  plan.add_tensor(0, kFloat32, 100, a.data(), nullptr);
  plan.add_tensor(0, kFloat64, 100, b.data(), nullptr);
  plan.add_tensor(1, kFloat32, 9000, c.data(), nullptr);
  plan.set_gradient(0, ga.data(), true);
  plan.set_gradient(1, gb.data(), true);
  plan.set_gradient(2, gc.data(), true);
  plan.step({});
  CHECK_EQUAL(a[99], 0.5f);
  CHECK_EQUAL(b[99], 0.5);
  CHECK_EQUAL(c[8999], 0.0f);
}

TEST(a_tensor_without_gradient_is_left_alone) {
  StepPlan plan;
  add_sgd(plan, 1);
  std::vector<double> a(10, 1.0), b(10, 1.0), g(10, 1.0);
  plan.add_tensor(0, kFloat64, 10, a.data(), nullptr);
  plan.add_tensor(0, kFloat64, 10, b.data(), nullptr);
  plan.set_gradient(1, g.data(), true);
  plan.step({});
  plan.set_gradient(0, g.data(), true);
  plan.step({});
  CHECK_EQUAL(a[0], 0.0);
  CHECK_EQUAL(b[0], -1.0);
  CHECK_EQUAL(plan.steps(0), 1);
  CHECK_EQUAL(plan.steps(1), 2);
}

TEST(clipping_uses_the_norm_of_all_and_finite_checks_write_nothing) {
  StepPlan plan;
  add_sgd(plan, 1);
  std::vector<double> a(1, 0.0), b(1, 0.0), ga(1, 3.0), gb(1, 4.0);
  plan.add_tensor(0, kFloat64, 1, a.data(), nullptr);
  plan.add_tensor(0, kFloat64, 1, b.data(), nullptr);
  plan.set_gradient(0, ga.data(), true);
  plan.set_gradient(1, gb.data(), true);
  CHECK_EQUAL(plan.step({1.0, 2.5, false}).grad_norm, 5.0);
  CHECK(std::fabs(a[0] + 1.5) < 1e-6 && std::fabs(b[0] + 2.0) < 1e-6);
  ga[0] = HUGE_VAL;
  const double before = b[0];
  CHECK(!plan.step({1.0, 0.0, true}).applied);
  CHECK_EQUAL(b[0], before);
  CHECK_EQUAL(plan.steps(0), 1);
}

static std::vector<float> ramp(int64_t n) {
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 977 - 400) / 512;
  return x;
}

// Items end where tasks do, wherever that is in a block of sums.
TEST(items_cut_anywhere_change_nothing) {
  const int64_t usual = tuning.task;
  const std::vector<float> g = ramp(3 * kSumBlock + 77);
  std::vector<std::vector<float>> results;
  std::vector<double> norms;
  for (const int64_t task :
       {usual, int64_t{1000}, kSumBlock + 1, int64_t{5 * kSumBlock}, int64_t{3}})
    for (int threads : {1, 3}) {
      ThreadPool::instance().set_threads(threads);
      tuning.task = task;
      StepPlan plan;
      add_sgd(plan, 0.5);
      std::vector<float> a = ramp(3 * kSumBlock + 77), b(5, 1.0f);
      plan.add_tensor(0, kFloat32, 5, b.data(), nullptr);
      plan.add_tensor(0, kFloat32, static_cast<int64_t>(a.size()), a.data(), nullptr);
      plan.set_gradient(0, g.data(), true);
      plan.set_gradient(1, g.data(), true);
      norms.push_back(plan.step({1.0, 2.0, true}).grad_norm);
      results.push_back(a);
    }
  tuning.task = usual;
  for (size_t i = 1; i < results.size(); ++i) {
    CHECK(results[i] == results[0]);
    CHECK_EQUAL(norms[i], norms[0]);
  }
}

// Divided among processes at a multiple of kSumBlock, each with the blocks of its part.
TEST(the_block_sums_of_parts_are_those_of_the_whole) {
  const int64_t n = 5 * kSumBlock + 123;
  const std::vector<float> g = ramp(n);
  std::vector<float> p(n);
  const auto sums = [&](int64_t begin, int64_t end, double* norm) {
    StepPlan plan;
    add_sgd(plan, 1);
    plan.add_tensor(0, kFloat32, 10, p.data(), nullptr);  // without a gradient: no blocks
    plan.add_tensor(0, kFloat32, end - begin, p.data() + begin, nullptr);
    plan.set_gradient(1, g.data() + begin, true);
    const std::vector<int64_t> counts = plan.block_counts();
    CHECK_EQUAL(counts[0], 0);
    CHECK_EQUAL(counts[1], (end - begin + kSumBlock - 1) / kSumBlock);
    *norm = plan.gradient_norm();
    return plan.gradient_block_sums();
  };
  double whole_norm, part_norm;
  const std::vector<double> whole = sums(0, n, &whole_norm);
  std::vector<double> parts;
  for (const auto& [begin, end] : {std::pair{int64_t{0}, 2 * kSumBlock}, {2 * kSumBlock, n}})
    for (double sum : sums(begin, end, &part_norm)) parts.push_back(sum);
  CHECK(parts == whole);
  double total = 0;
  for (double sum : parts) total += sum;
  CHECK_EQUAL(std::sqrt(total), whole_norm);
}

TEST(a_formula_that_asks_for_an_unknown_name_is_told) {
  StepPlan plan;
  std::string missing;
  plan.add_group(kernel_index("Adam"), kNames, &missing);
  CHECK(!missing.empty());
  CHECK_EQUAL(kernel_index("Adm"), -1);
}

TEST(every_isa_lists_the_same_kernels) {
  for (const KernelTable* table : supported_tables()) {
    CHECK_EQUAL(table->optim->kernel_count, active_table().optim->kernel_count);
    for (int i = 0; i < table->optim->kernel_count; ++i)
      CHECK_EQUAL(std::string(table->optim->kernels[i].name),
                  active_table().optim->kernels[i].name);
  }
  CHECK(!activate_table("sse9"));
}
