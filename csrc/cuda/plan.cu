// How a call of `loss` is laid out: which kernels, which pieces, which memory. Host code only.
#include <cstdint>

#include "plan.h"

namespace frs::cuda {
namespace {

bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// Whether each run of `side` can be one access: the strides of dimensions of size 1 are never used.
bool aligned(const Side& side, const tiles::Cut& cut, DType type) {
  const int64_t bytes = static_cast<int64_t>(size_of(type));
  return aligned(side.data) && (cut.rows <= 1 || side.row_stride * bytes % 16 == 0) &&
         (cut.batch <= 1 || side.batch_stride * bytes % 16 == 0);
}

tiles::Cut cut_of(int64_t batch, int64_t channels, int64_t locations, bool location_major) {
  tiles::Cut cut;
  cut.batch = static_cast<uint32_t>(batch);
  cut.rows = static_cast<uint32_t>(location_major ? channels : locations);
  cut.columns = static_cast<uint32_t>(location_major ? locations : channels);
  cut.location_major = location_major;
  return cut;
}

void fill_term(Term& term, tiles::Cut& cut, const Level& level, const frs::Term& source,
               const TermTypes& types, uint32_t width) {
  const bool location_major = source.location_major();
  term = {side_of(source.student, location_major), side_of(source.teacher, location_major),
          side_of(source.grad, location_major), level.mask, source.channel_weight};
  cut = cut_of(source.teacher.present() ? level.batch : 0, source.channels, level.locations, location_major);
  cut.wide = cut.columns % width == 0 && aligned(term.student, cut, types.student) &&
             aligned(term.teacher, cut, types.teacher) && aligned(term.gradient, cut, types.student) &&
             aligned(location_major ? term.location_weight : term.channel_weight);
}

// One codec for all lists that are read together, if they have one type.
int choose_codec(const LossParams& p, const DTypes& types, bool imitation, bool head, bool scores) {
  if (types.double_precision()) return static_cast<int>(DType::f64);
  if (head && p.beta > 0) return kAnyCodec;
  const DType found = imitation ? types.imitation.student : head ? types.head.student : types.head.teacher;
  const bool same = (!imitation || types.imitation.teacher == found) &&
                    (!head || (types.head.student == found && types.head.teacher == found)) &&
                    (!scores || types.head.teacher == found);
  return same ? static_cast<int>(found) : kAnyCodec;
}

// Every warp of a single-pass block takes an eighth of its tile of locations, or of the channels at them.
void fit_to_tile(tiles::Cut& cut, uint32_t width) {
  if (cut.location_major) {
    cut.lanes_log2 = 0;
    while ((width << cut.lanes_log2) < tiles::score_tile(width)) ++cut.lanes_log2;
    const uint32_t step = cut.rows_per_step();
    cut.rows_per_piece = tiles::ceil_div(tiles::ceil_div(cut.rows, tiles::kWarps), step) * step;
  } else {
    cut.lanes_log2 = tiles::choose_lanes(cut.columns, width, cut.wide);
    cut.rows_per_piece = tiles::score_tile(width) / tiles::kWarps;
  }
}

uint32_t plan_weights(WeightTable& table, const LossParams& p) {
  uint32_t tiles = 0;
  table.num_levels = p.num_levels;
  for (int l = 0; l < p.num_levels; ++l) {
    table.weight[l] = p.levels[l].mask;
    table.size[l] = p.levels[l].batch * p.levels[l].locations;
    table.first_tile[l] = tiles;
    tiles += static_cast<uint32_t>((table.size[l] + kWeightTile - 1) / kWeightTile);
  }
  return tiles;
}

}  // namespace

uint32_t plan_scores(ScoreTable& table, const Level* levels, int num_levels, DType type) {
  const uint32_t width = run_width(static_cast<int>(type));
  uint32_t tiles = 0;
  table.num_levels = num_levels;
  for (int l = 0; l < num_levels; ++l) {
    const Level& level = levels[l];
    const bool location_major = level.head.teacher.location_major();
    tiles::Cut& cut = table.cuts[l];
    cut = cut_of(level.batch, level.head.channels, level.locations, location_major);
    table.teacher[l] = side_of(level.head.teacher, location_major);
    cut.wide = cut.columns % width == 0 && aligned(table.teacher[l], cut, type);
    cut.lanes_log2 = tiles::choose_lanes(cut.columns, width, cut.wide);
    table.score[l] = level.mask;
    table.first_tile[l] = tiles;
    tiles += tiles::ceil_div(cut.locations(), tiles::score_tile(width)) * cut.batch;
  }
  return tiles;
}

LossPlan plan_loss(const LossParams& p, const DTypes& types) {
  LossPlan plan;
  LossTable& table = plan.table;
  const int levels = p.num_levels;
  bool imitation = false, head = false;
  for (int l = 0; l < levels; ++l) {
    const Level& level = p.levels[l];
    imitation |= level.imitation.student.present();
    head |= level.head.student.present();
    table.deferred[0] |= level.imitation.grad.present() && pending_factor(types.imitation.student);
    table.deferred[1] |= level.head.grad.present() && pending_factor(types.head.student);
  }
  plan.single_pass = p.mode == Mode::single_pass;
  plan.logit_type = types.head.teacher;
  plan.codec = choose_codec(p, types, imitation, head, plan.single_pass);

  table.num_levels = levels;
  table.normalizer = p.normalizer;
  table.divisor = p.normalizer_value;
  table.scale[0] = p.feat_scale, table.scale[1] = p.head_scale;
  table.beta = p.beta;
  table.losses = p.losses;
  table.pending = p.pending;
  table.student_type[0] = types.imitation.student, table.teacher_type[0] = types.imitation.teacher;
  table.student_type[1] = types.head.student, table.teacher_type[1] = types.head.teacher;

  const uint32_t width = run_width(plan.codec);
  for (int l = 0; l < levels; ++l) {
    const Level& level = p.levels[l];
    fill_term(table.terms[l], table.cuts[l], level, level.imitation, types.imitation, width);
    fill_term(table.terms[levels + l], table.cuts[levels + l], level, level.head, types.head, width);
  }

  uint32_t blocks = 0;
  if (plan.single_pass) {
    for (int l = 0; l < levels; ++l) {
      fit_to_tile(table.cuts[l], width);
      tiles::Cut& cut = table.cuts[levels + l];
      cut.lanes_log2 = tiles::choose_lanes(cut.columns, width, cut.wide);
      table.first_tile[l] = plan.tiles;
      plan.tiles += tiles::ceil_div(cut.locations(), tiles::score_tile(width)) * cut.batch;
    }
    blocks = 2 * plan.tiles;
  } else {
    if (!head) {
      for (int l = 0; l < levels; ++l) table.cuts[levels + l].batch = 0;
    }
    blocks = tiles::cut_terms(table.cuts, table.first_block, 2 * levels, width);
    table.first_block[2 * levels] = blocks;
    if (p.mode == Mode::mask_first) {
      plan.tiles = plan_scores(plan.scores, p.levels, levels, types.head.teacher);
      if (plan.tiles > 0) plan.first = LossPlan::First::scores;
      for (int l = 0; l < levels; ++l) table.first_tile[l] = plan.scores.first_tile[l];
    } else if (needs_mask_sum(p.normalizer)) {
      plan.tiles = plan_weights(plan.weights, p);
      if (plan.tiles > 0) plan.first = LossPlan::First::weights;
      for (int l = 0; l < levels; ++l) table.first_tile[l] = plan.weights.first_tile[l];
    }
  }
  table.first_tile[levels] = plan.tiles;

  const size_t element = types.double_precision() ? 8 : 4;
  plan.workspace = (size_t{plan.tiles} + blocks + 1) * element;
  return plan;
}

cudaError_t loss(LossPlan& plan, void* workspace, cudaStream_t stream) {
  const size_t element = plan.codec == static_cast<int>(DType::f64) ? 8 : 4;
  LossTable& table = plan.table;
  char* memory = static_cast<char*>(workspace);
  table.counter = reinterpret_cast<unsigned*>(memory);
  table.tile_sums = memory + element;
  table.partials = memory + (1 + size_t{plan.tiles}) * element;

  cudaError_t error = cudaSuccess;
  if (plan.first == LossPlan::First::scores) {
    plan.scores.tile_sums = table.tile_sums;
    plan.scores.counter = table.counter;
    error = detail::launch_scores(plan.scores, plan.tiles, plan.logit_type, stream);
  } else if (plan.first == LossPlan::First::weights) {
    plan.weights.tile_sums = table.tile_sums;
    plan.weights.counter = table.counter;
    error = detail::launch_weight_sums(plan.weights, plan.tiles, element == 8, stream);
  } else {
    error = cudaMemsetAsync(table.counter, 0, sizeof(*table.counter), stream);
  }
  if (error != cudaSuccess) return error;
  return plan.single_pass ? detail::launch_single_pass(plan, stream) : detail::launch_loss(plan, stream);
}

}  // namespace frs::cuda
