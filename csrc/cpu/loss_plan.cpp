#include "loss_plan.h"

#include <numeric>

namespace frs::cpu {
namespace {

// How many tasks there are between a level's mask pass and the head's loss pass, as far as masks of later
// levels have that many: one for every other thread, which would else wait until the last tile of the mask is
// done. With many threads, all masks come first. A channel-major tile of the mask takes so little time that
// few threads gain more from T in the cache.
size_t tasks_before_head(const Level& level, int threads) {
  constexpr int kManyThreads = 16;
  return level.head.location_major() || threads >= kManyThreads ? threads - 1 : 0;
}

}  // namespace

// Small levels come first: the head's loss pass reads logits that are still in the cache from the mask pass.
// For the same reason its tiles are in reverse order, so that it begins where the mask pass ended, which
// matters for large levels. Features are read once, so their order does not matter. Where a normalizer spans
// the levels, no head can begin before the last mask is done. The heads then begin with the level whose mask
// came last.
LossPlan::LossPlan(const LossParams& params, const DTypes& types, int threads) : levels(params.num_levels) {
  const bool all_masks_first = spans_levels(params.normalizer);
  add_groups(all_masks_first);
  std::vector<int> order(params.num_levels);
  std::iota(order.begin(), order.end(), 0);
  auto locations = [&](int l) { return params.levels[l].batch * params.levels[l].locations; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return locations(a) < locations(b); });

  const bool single_pass = params.mode == Mode::single_pass;
  std::vector<size_t> mask_pass_ends;
  size_t heads = 0;  // levels whose head's loss pass is in the list, in this order
  auto add_head = [&](int l) {
    const size_t first = tasks.size();
    add_loss_pass(params.levels[l], l, levels[l].head, threads);
    std::reverse(tasks.begin() + first, tasks.end());
  };
  auto add_heads = [&](bool is_end) {
    for (; heads < mask_pass_ends.size(); ++heads) {
      const int l = order[heads];
      const size_t between = tasks.size() - mask_pass_ends[heads];
      if (!is_end && between < tasks_before_head(params.levels[l], threads)) return;
      add_head(l);
    }
  };
  for (int l : order) {
    const Level& level = params.levels[l];
    LevelState& state = levels[l];
    state.imitation.term = &level.imitation;
    state.imitation.types = types.imitation;
    state.head.term = &level.head;
    state.head.types = types.head;
    add_mask_pass(level, l, single_pass ? Pass::single : Pass::mask, params.mode != Mode::mask_given,
                  threads);
    if (single_pass) continue;
    mask_pass_ends.push_back(tasks.size());
    if (!all_masks_first) add_heads(false);
  }
  if (single_pass) return;
  if (!all_masks_first) add_heads(true);
  std::reverse(order.begin(), order.end());
  for (int l : order)
    if (all_masks_first) add_head(l);
  for (int l : order) add_loss_pass(params.levels[l], l, levels[l].imitation, threads);
}

void LossPlan::add_groups(bool one_for_all) {
  const int count = static_cast<int>(levels.size());
  num_groups = one_for_all ? 1 : count;
  groups.reset(new LevelGroup[num_groups]);
  for (int g = 0; g < num_groups; ++g) {
    groups[g].first = g;
    groups[g].last = one_for_all ? count : g + 1;
    for (int l = groups[g].first; l < groups[g].last; ++l) levels[l].group = &groups[g];
  }
}

void LossPlan::add_mask_pass(const Level& level, int l, Pass pass, bool reads_logits, int threads) {
  const bool channel_major = reads_logits && !level.head.location_major();
  const int64_t size = mask_tile_locations(level, channel_major, threads);
  const size_t first = tasks.size();
  levels[l].mask_runs.first = runs;
  for (int64_t image = 0; image < level.batch; ++image) {
    split(level.locations, size, [&](int64_t begin, int64_t length) {
      tasks.push_back(
          {pass, nullptr, {l, image, 0, level.head.channels, begin, length}, runs + begin / kRun});
    });
    runs += runs_of(level.locations);
  }
  levels[l].mask_runs.last = runs;
  elements += level.batch * level.locations * (reads_logits ? level.head.channels : 1);
  levels[l].group->mask_pass.expect(static_cast<int64_t>(tasks.size() - first));
}

void LossPlan::add_loss_pass(const Level& level, int l, TermState& state, int threads) {
  const Term& term = *state.term;
  if (!term.student.present()) return;
  const bool channel_major = !term.location_major();
  const TileSize tile = loss_tile_size(level.batch, term.channels, level.locations, channel_major, threads);
  const int64_t per_sum = channel_major ? tile.locations : kSegment;
  const int64_t sums_per_row = ceil_div(level.locations, per_sum);
  state.sums.first = segments;
  for (int64_t image = 0; image < level.batch; ++image) {
    split(level.locations, tile.locations, [&](int64_t location, int64_t locations) {
      split(term.channels, tile.channels, [&](int64_t channel, int64_t channels) {
        const int64_t sum = segments + channel / tile.channels * sums_per_row + location / per_sum;
        tasks.push_back({Pass::loss, &state, {l, image, channel, channels, location, locations}, sum});
      });
    });
    segments += ceil_div(term.channels, tile.channels) * sums_per_row;
  }
  state.sums.last = segments;
  const int64_t count = level.batch * level.locations * term.channels;
  elements += count;
  if (term.grad.present()) grad_bytes += count * static_cast<int64_t>(size_of(state.types.student));
}

}  // namespace frs::cpu
