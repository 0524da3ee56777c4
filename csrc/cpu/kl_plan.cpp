#include "kl_plan.h"

#include <algorithm>

namespace frs::cpu {
namespace {

// All sizes depend on the shape alone, and on no number of threads: each task has one sum. Elements are those
// of one tensor.
constexpr int64_t kTileElements = 1 << 13;  // as many as a tile has if it can: 64 KiB of scratch memory
constexpr int64_t kColumnsWidth = 128;      // at most, as columns: 512 bytes of a row of float32
constexpr int64_t kTaskElements = 1 << 16;  // at most in a task of several tiles
// The same for distributions that are larger than a tile, and how many columns a task has of them at most.
constexpr int64_t kLargeTileElements = 1 << 12, kLargeTaskElements = 1 << 17, kLargeWidth = 256;
constexpr int64_t kTransposedBins = 48;  // at most; vectors along more bins have few idle lanes

KLForm form_of(const Term& logits, bool over_locations, int64_t bins) {
  auto adjacent = [&](const TensorView& v) {
    return !v.present() || (over_locations ? v.stride_l : v.stride_c) == 1;
  };
  if (!adjacent(logits.student) || !adjacent(logits.teacher) || !adjacent(logits.grad))
    return KLForm::columns;
  return bins <= kTransposedBins ? KLForm::transposed : KLForm::rows;
}

// The distributions of a tile; 0 if not even the fewest fit.
int64_t tile_width(KLForm form, int64_t groups, int64_t bins, bool double_precision) {
  const int64_t fewest = form == KLForm::rows ? 1 : kKLLanes;
  const int64_t per_width = form == KLForm::rows ? round_up(bins, kKLLanes) : bins;
  if (fewest * per_width > kl_tile_pairs(double_precision)) return 0;
  // Transposed, a cache line has bins of several groups, which are processed one after another.
  const int64_t wanted = kTileElements / per_width / (form == KLForm::transposed ? groups : 1);
  const int64_t most = form == KLForm::columns ? kColumnsWidth : kMaxKLWidth;
  return std::clamp(wanted / fewest * fewest, fewest, most);
}

}  // namespace

KLPlan::KLPlan(const KLParams& params, bool double_precision) : levels(params.num_levels) {
  for (int l = 0; l < params.num_levels; ++l) {
    const KLLevel& level = params.levels[l];
    const int64_t channels = level.logits.channels, locations = level.locations;
    KLLevelState& state = levels[l];
    state.level = &level;
    state.groups = params.groups;
    state.per_image = params.over_locations ? channels : locations;
    state.bins = params.over_locations ? locations : channels / params.groups;
    state.form = form_of(level.logits, params.over_locations, state.bins);
    if (needs_mask_sum(params.normalizer) && level.weight != nullptr) add_weights(l);
  }
  weight_tasks = static_cast<int64_t>(tasks.size());
  for (int l = 0; l < params.num_levels; ++l) add_level(l, double_precision);
  add_gradients();
}

// One row of all images together.
void KLPlan::add_weights(int l) {
  constexpr int64_t kRuns = 64;
  KLLevelState& state = levels[l];
  state.first_run = runs;
  split(state.level->batch * state.per_image, kRuns * kRun, [&](int64_t begin, int64_t length) {
    KLTask task{KLPass::weights, l, 0};
    task.distribution = begin;
    task.distributions = length;
    task.sum = runs;
    tasks.push_back(task);
    runs += ceil_div(length, kRun);
  });
  state.last_run = runs;
}

void KLPlan::add_level(int l, bool double_precision) {
  KLLevelState& state = levels[l];
  const KLLevel& level = *state.level;
  state.first_sum = state.last_sum = sums;
  const int64_t count = level.batch * level.logits.channels * level.locations;
  if (count == 0) return;
  elements += count;
  if (level.logits.grad.present()) grad_elements += count;
  const int64_t width = tile_width(state.form, state.groups, state.bins, double_precision);
  for (int64_t image = 0; image < level.batch; ++image)
    width > 0 ? add_whole(l, image, width) : add_large(l, image);
  state.last_sum = sums;
}

void KLPlan::add_whole(int l, int64_t image, int64_t width) {
  const KLLevelState& state = levels[l];
  const int64_t tiles = std::max<int64_t>(1, kTaskElements / (width * state.bins * state.groups));
  split(state.per_image, tiles * width, [&](int64_t begin, int64_t length) {
    KLTask task{KLPass::whole, l, image};
    task.groups = state.groups;
    task.distribution = begin;
    task.distributions = length;
    task.bins = state.bins;
    task.width = width;
    task.sum = sums++;
    tasks.push_back(task);
  });
}

void KLPlan::add_large(int l, int64_t image) {
  const KLLevelState& state = levels[l];
  const int64_t most = state.form == KLForm::rows ? 1 : kLargeWidth;
  for (int64_t group = 0; group < state.groups; ++group)
    split(state.per_image, most, [&](int64_t begin, int64_t width) {
      const int64_t bins = kKLLanes * ceil_div(kLargeTaskElements / kKLLanes, width);
      const int64_t per_bin = state.form == KLForm::rows ? 1 : round_up(width, kKLLanes);
      LargeDistributions& of = large.emplace_back();
      of.parts = ceil_div(state.bins, bins);
      of.values_per_part = kKLStatistics * width;
      of.first_value = values;
      of.sum = sums++;
      of.statistics.expect(of.parts);
      values += of.parts * of.values_per_part;
      std::vector<KLTask> parts;
      split(state.bins, bins, [&](int64_t bin, int64_t count) {
        KLTask task{KLPass::statistics, l, image};
        task.group = group;
        task.distribution = begin;
        task.distributions = task.width = width;
        task.bin = bin;
        task.bins = count;
        task.tile_bins = std::max(kKLLanes, kLargeTileElements / per_bin / kKLLanes * kKLLanes);
        task.large = &of;
        task.part = static_cast<int64_t>(parts.size());
        parts.push_back(task);
      });
      tasks.insert(tasks.end(), parts.begin(), parts.end());
      add_gradients();
      if (state.level->logits.grad.present()) gradients_.assign(parts.rbegin(), parts.rend());
    });
}

// The gradients of large distributions come after the statistics of the next ones, for which they need not
// wait. They begin with the bins that were read last.
void KLPlan::add_gradients() {
  for (KLTask& task : gradients_) task.pass = KLPass::gradient;
  tasks.insert(tasks.end(), gradients_.begin(), gradients_.end());
  gradients_.clear();
}

}  // namespace frs::cpu
