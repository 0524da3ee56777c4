// The operator `loss`: masks, losses and gradients of all levels in one parallel region.
#include <algorithm>
#include <cstring>

#include "loss_plan.h"
#include "operators.h"

namespace frs::cpu {
namespace {

// With fewer elements, one thread is faster than waking the others.
constexpr int64_t kSerialElements = 1 << 15;

void set_grad_to_zero(const Block& b) {
  const size_t size = size_of(b.student_type);
  const int64_t rows = b.channel_major ? b.locations : b.channels;
  const int64_t length = b.channel_major ? b.channels : b.locations;
  for (int64_t r = 0; r < rows; ++r) std::memset(at(b.grad, r * b.grad_stride, size), 0, length * size);
}

// The losses of both terms.
struct TermLosses {
  double imitation = 0.0, head = 0.0;

  void operator+=(const TermLosses& other) {
    imitation += other.imitation;
    head += other.head;
  }
};

class Loss {
 public:
  Loss(const LossParams& params, const DTypes& types, const Threads& threads)
      : params_(params),
        double_precision_(types.double_precision()),
        threads_(threads),
        factors_(params, double_precision_),
        plan_(params, types, threads.count),
        run_sums_(plan_.runs),
        segment_sums_(plan_.segments) {}

  void run() {
    Threads threads = threads_;
    if (plan_.elements < kSerialElements) threads.count = 1;
    const auto& tasks = plan_.tasks;
    run_tasks(static_cast<int64_t>(tasks.size()), threads, [&](int64_t i) { run_task(tasks[i]); });
    double_precision_ ? write_results<double>() : write_results<float>();
  }

 private:
  void run_task(const Task& task) {
    LevelGroup& group = *plan_.levels[task.tile.level].group;
    switch (task.pass) {
      case Pass::mask:
        run_mask_pass(task);
        if (group.mask_pass.count_down()) {
          compute_factors(group);
          group.mask_pass.open();
        }
        break;
      case Pass::loss:
        group.mask_pass.wait();
        run_loss_pass(task);
        break;
      case Pass::single:
        run_single_pass(task);
        break;
    }
  }

  void run_mask_pass(const Task& task) {
    const Block b = block(plan_.levels[task.tile.level].head, task.tile);
    double sums[kMaxMaskTile / kRun];
    if (params_.mode == Mode::mask_first)
      kernels().mask(b, const_cast<void*>(b.mask), sums);
    else
      sum_runs(b.mask, double_precision_, b.locations, sums);
    for (int64_t r = 0; r < runs_of(b.locations); ++r) run_sums_[task.first_sum + r].mask = sums[r];
  }

  void run_loss_pass(const Task& task) {
    const TermState& term = *task.term;
    Block b = block(term, task.tile);
    b.beta = params_.beta;
    b.factor = term.applied();
    b.non_temporal = plan_.grad_bytes > settings().non_temporal_from &&
                     suits_non_temporal_stores(b.grad, b.grad_stride, b.student_type, b.channel_major);
    if (term.factor.normalizer_is_zero) {
      if (b.grad != nullptr) set_grad_to_zero(b);
      return;  // the sums stay 0
    }
    // The kernels add to the sums row by row, and segment_sums_ has those of eight tasks in one cache line.
    double sums[kMaxLossTile / kSegment];
    const bool is_head = &term == &plan_.levels[task.tile.level].head;
    (is_head ? kernels().head : kernels().imitation)(b, sums);
    const int64_t count = b.channel_major ? 1 : ceil_div(b.locations, kSegment);
    std::copy(sums, sums + count, segment_sums_.begin() + task.first_sum);
  }

  void run_single_pass(const Task& task) {
    const LevelState& state = plan_.levels[task.tile.level];
    Block logits = block(state.head, task.tile);
    logits.beta = params_.beta;
    Tile tile = task.tile;
    tile.channels = state.imitation.term->channels;
    Sums sums[kMaxMaskTile / kRun];
    kernels().single(logits, block(state.imitation, tile), sums);
    std::copy(sums, sums + runs_of(tile.locations), run_sums_.begin() + task.first_sum);
  }

  Block block(const TermState& state, const Tile& tile) const {
    return block_of(params_.levels[tile.level], *state.term, state.types, double_precision_, tile);
  }

  // The mask's sum over these runs, and in a single pass those of both terms.
  Sums sum_of_runs(const SumRange& runs) const {
    Sums total;
    for (int64_t r = runs.first; r < runs.last; ++r) {
      total.mask += run_sums_[r].mask;
      total.imitation += run_sums_[r].imitation;
      total.head += run_sums_[r].head;
    }
    return total;
  }

  double sum_of_segments(const SumRange& segments) const {
    double total = 0.0;
    for (int64_t i = segments.first; i < segments.last; ++i) total += segment_sums_[i];
    return total;
  }

  void compute_factors(const LevelGroup& group) {
    double mask_sum = 0.0;
    for (int l = group.first; l < group.last; ++l) mask_sum += sum_of_runs(plan_.levels[l].mask_runs).mask;
    for (int l = group.first; l < group.last; ++l) {
      LevelState& state = plan_.levels[l];
      const Level& level = params_.levels[l];
      auto factor = [&](const Scalar& scale, const Term& term) {
        return factors_.of(scale, level.batch, term.channels, level.locations, mask_sum);
      };
      state.imitation.factor = factor(params_.feat_scale, level.imitation);
      state.head.factor = factor(params_.head_scale, level.head);
    }
  }

  // What one of the level's images contributes, scales included; for images == 1, what all of them do.
  // Partial sums are added in an order that does not depend on the threads.
  TermLosses losses_of(int l, int64_t image, int64_t images) const {
    const LevelState& state = plan_.levels[l];
    if (params_.mode == Mode::single_pass) {
      const Sums sums = sum_of_runs(state.mask_runs.of_image(image, images));
      return {state.imitation.loss(sums.imitation), state.head.loss(sums.head)};
    }
    return {state.imitation.pending() * sum_of_segments(state.imitation.sums.of_image(image, images)),
            state.head.pending() * sum_of_segments(state.head.sums.of_image(image, images))};
  }

  template <class S>
  void write_results() {
    const int levels = params_.num_levels;
    S* const level_losses = static_cast<S*>(params_.level_losses);
    S* const pending = static_cast<S*>(params_.pending);
    TermLosses total;
    for (int g = 0; params_.mode == Mode::single_pass && g < plan_.num_groups; ++g)
      compute_factors(plan_.groups[g]);
    for (int l = 0; l < levels; ++l) {
      const TermLosses level = losses_of(l, 0, 1);
      total += level;
      level_losses[l] = static_cast<S>(level.imitation);
      level_losses[levels + l] = static_cast<S>(level.head);
      pending[l] = static_cast<S>(plan_.levels[l].imitation.pending());
      pending[levels + l] = static_cast<S>(plan_.levels[l].head.pending());
    }
    if (params_.per_image)
      write_losses_per_image<S>();
    else
      write_losses<S>(total, 0, 1);
  }

  template <class S>
  void write_losses_per_image() {
    const int64_t images = params_.levels[0].batch;
    for (int64_t image = 0; image < images; ++image) {
      TermLosses total;
      for (int l = 0; l < params_.num_levels; ++l) total += losses_of(l, image, images);
      write_losses<S>(total, image, images);
    }
  }

  template <class S>
  void write_losses(const TermLosses& total, int64_t image, int64_t images) {
    S* const losses = static_cast<S*>(params_.losses) + image;
    losses[0] = static_cast<S>(total.imitation);
    losses[images] = static_cast<S>(total.head);
    losses[2 * images] = losses[0] + losses[images];
  }

  const LossParams& params_;
  const bool double_precision_;
  const Threads& threads_;
  const Factors factors_;
  LossPlan plan_;
  std::vector<Sums> run_sums_;
  std::vector<double> segment_sums_;
};

}  // namespace

void loss(const LossParams& params, const DTypes& types, const Threads& threads) {
  Loss(params, types, threads).run();
}

}  // namespace frs::cpu
