// The operator `kl`: loss and gradients of all levels in one parallel region.
#include <algorithm>
#include <cstring>
#include <memory>

#include "blocks.h"
#include "kl_plan.h"
#include "operators.h"

namespace frs::cpu {
namespace {

// With fewer elements, one thread is faster than waking the others.
constexpr int64_t kSerialElements = 1 << 14;

void set_grad_to_zero(const KLBlock& b) {
  const size_t size = size_of(b.student_type);
  const bool columns = b.form == KLForm::columns;
  const int64_t bins = b.groups * b.bins;
  const int64_t rows = columns ? bins : b.distributions, length = columns ? b.distributions : bins;
  for (int64_t r = 0; r < rows; ++r) std::memset(at(b.grad, r * b.grad_stride, size), 0, length * size);
}

class KL {
 public:
  KL(const KLParams& params, const TermTypes& types, const Threads& threads)
      : params_(params),
        types_(types),
        double_precision_(types.student == DType::f64),
        threads_(threads),
        factors_(params, double_precision_),
        plan_(params, double_precision_),
        weight_sums_(plan_.runs),
        sums_(plan_.sums),
        statistics_(new char[plan_.values * value_size()]) {
    weights_summed_.expect(plan_.weight_tasks);
    if (plan_.weight_tasks == 0) compute_factors();
  }

  void run() {
    Threads threads = threads_;
    if (plan_.elements < kSerialElements) threads.count = 1;
    const auto& tasks = plan_.tasks;
    run_tasks(static_cast<int64_t>(tasks.size()), threads, [&](int64_t i) { run_task(tasks[i]); });
    double_precision_ ? write_results<double>() : write_results<float>();
  }

 private:
  size_t value_size() const { return double_precision_ ? 8 : 4; }

  void run_task(const KLTask& task) {
    if (task.pass == KLPass::weights) {
      sum_weights(task);
      if (weights_summed_.count_down()) compute_factors();
      return;
    }
    weights_summed_.wait();
    const KLBlock b = block(task);
    if (plan_.levels[task.level].factor.normalizer_is_zero) {  // the sums stay 0
      if (task.pass != KLPass::statistics && b.grad != nullptr) set_grad_to_zero(b);
      return;
    }
    if (task.pass == KLPass::whole)
      sums_[task.sum] = kernels().kl(b);
    else if (task.pass == KLPass::statistics)
      take_statistics(task, b);
    else
      take_gradient(task, b);
  }

  void sum_weights(const KLTask& task) {
    const void* const weight = plan_.levels[task.level].level->weight;
    sum_runs(at(const_cast<void*>(weight), task.distribution, value_size()), double_precision_,
             task.distributions, &weight_sums_[task.sum]);
  }

  void take_statistics(const KLTask& task, const KLBlock& b) {
    LargeDistributions& large = *task.large;
    kernels().kl_statistics(b, statistics_of(large, task.part));
    if (!large.statistics.count_down()) return;
    sums_[large.sum] = kernels().kl_merge(b, statistics_of(large, 0), large.parts);
    large.statistics.open();
  }

  void take_gradient(const KLTask& task, const KLBlock& b) {
    task.large->statistics.wait();
    kernels().kl_gradient(b, statistics_of(*task.large, 0));
  }

  void* statistics_of(const LargeDistributions& large, int64_t part) {
    return at(statistics_.get(), large.first_value + part * large.values_per_part, value_size());
  }

  KLBlock block(const KLTask& task) const {
    const KLLevelState& state = plan_.levels[task.level];
    const Term& logits = state.level->logits;
    const bool columns = state.form == KLForm::columns;
    const int64_t bin = task.group * state.bins + task.bin;
    auto stride = [&](const TensorView& v) {
      return columns != params_.over_locations ? v.stride_c : v.stride_l;
    };
    auto first = [&](const TensorView& v, DType type) {
      const int64_t row = columns ? bin : task.distribution, column = columns ? task.distribution : bin;
      return at(v.data, task.image * v.stride_b + row * stride(v) + column, size_of(type));
    };
    KLBlock b;
    b.form = state.form;
    b.groups = task.groups;
    b.distributions = task.distributions;
    b.bins = task.bins;
    b.width = task.width;
    b.tile_bins = task.tile_bins;
    b.student_type = types_.student;
    b.teacher_type = types_.teacher;
    b.student = first(logits.student, types_.student);
    b.teacher = first(logits.teacher, types_.teacher);
    b.grad = first(logits.grad, types_.student);
    b.student_stride = stride(logits.student);
    b.teacher_stride = stride(logits.teacher);
    b.grad_stride = stride(logits.grad);
    b.weight = at(const_cast<void*>(state.level->weight), task.image * state.per_image + task.distribution,
                  value_size());
    b.temperature = params_.temperature;
    b.factor = params_.temperature * state.factor.applied(types_.student);
    b.non_temporal = is_non_temporal(b, logits.location_major());
    return b;
  }

  bool is_non_temporal(const KLBlock& b, bool location_major) const {
    const int64_t size = static_cast<int64_t>(size_of(b.student_type));
    if (plan_.grad_elements * size <= settings().non_temporal_from) return false;
    int64_t aligned = b.grad_stride;
    if (b.form == KLForm::rows) aligned |= b.bins;
    if (b.form == KLForm::transposed) {  // stored in blocks of all groups of a tile's distributions
      const bool dense = b.grad_stride == b.groups * b.bins;
      const bool fits = b.width * b.bins * (2 + b.groups) * size <= kKLTileBytes;
      if (b.student_type != DType::f32 || !dense || !fits) return false;
      aligned *= b.width;
    }
    return suits_non_temporal_stores(b.grad, aligned, b.student_type, !location_major);
  }

  // The sum of w over levels [first, last).
  double weight_sum(int first, int last) const {
    double total = 0.0;
    for (int l = first; l < last; ++l) {
      const KLLevelState& state = plan_.levels[l];
      if (state.level->weight == nullptr) total += static_cast<double>(state.level->batch * state.per_image);
      for (int64_t r = state.first_run; r < state.last_run; ++r) total += weight_sums_[r];
    }
    return total;
  }

  void compute_factors() {
    const bool all = spans_levels(params_.normalizer);
    for (int l = 0; l < params_.num_levels; ++l) {
      KLLevelState& state = plan_.levels[l];
      const double sum = weight_sum(all ? 0 : l, all ? params_.num_levels : l + 1);
      state.factor = factors_.of(params_.scale, state.level->batch, state.level->logits.channels,
                                 state.level->locations, sum);
    }
    weights_summed_.open();
  }

  // What image `image` of `images` contributes, scale included. Sums are added in an order that does not
  // depend on the threads.
  double loss_of(int64_t image, int64_t images) const {
    double total = 0.0;
    for (const KLLevelState& state : plan_.levels) {
      const int64_t count = images == 0 ? 0 : (state.last_sum - state.first_sum) / images;
      double level = 0.0;
      for (int64_t i = 0; i < count; ++i) level += sums_[state.first_sum + image * count + i];
      total += state.factor.times(level);
    }
    return params_.temperature * params_.temperature * total;
  }

  template <class S>
  void write_results() {
    const int64_t images = params_.per_image ? params_.levels[0].batch : 1;
    for (int64_t i = 0; i < images; ++i)
      static_cast<S*>(params_.loss)[i] = static_cast<S>(loss_of(i, images));
    for (int l = 0; l < params_.num_levels; ++l)
      static_cast<S*>(params_.pending)[l] = static_cast<S>(plan_.levels[l].factor.pending(types_.student));
  }

  const KLParams& params_;
  const TermTypes types_;
  const bool double_precision_;
  const Threads& threads_;
  const Factors factors_;
  KLPlan plan_;
  Latch weights_summed_;
  std::vector<double> weight_sums_, sums_;
  std::unique_ptr<char[]> statistics_;
};

}  // namespace

void kl(const KLParams& params, const TermTypes& types, const Threads& threads) {
  KL(params, types, threads).run();
}

}  // namespace frs::cpu
