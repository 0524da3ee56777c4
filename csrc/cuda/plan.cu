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

void fill_term(Term& term, tiles::Cut& cut, const Level& level, bool head, DType student, DType teacher,
               uint32_t width) {
  const TensorView& s = head ? level.student_logit : level.student_feat;
  const TensorView& t = head ? level.teacher_logit : level.teacher_feat;
  const TensorView& g = head ? level.logit_grad : level.feat_grad;
  const bool location_major = head ? logit_location_major(level) : feat_location_major(level);
  term = {side_of(s, location_major), side_of(t, location_major), side_of(g, location_major), level.weight,
          head ? nullptr : level.channel_weight};
  const bool present = t.data != nullptr;
  cut = cut_of(present ? level.batch : 0, head ? level.logit_channels : level.feat_channels, level.locations,
               location_major);
  cut.wide = cut.columns % width == 0 && aligned(term.student, cut, student) &&
             aligned(term.teacher, cut, teacher) && aligned(term.gradient, cut, student) &&
             aligned(location_major ? term.location_weight : term.channel_weight);
}

// One codec for all lists that are read together, if they have one type.
int choose_codec(const LossParams& p, const DTypes& types, bool imitation, bool head, bool scores) {
  if (types.double_precision()) return static_cast<int>(DType::f64);
  if (head && p.beta > 0) return kAnyCodec;
  const DType found = imitation ? types.student_feat : head ? types.student_logit : types.teacher_logit;
  const bool same = (!imitation || types.teacher_feat == found) &&
                    (!head || (types.student_logit == found && types.teacher_logit == found)) &&
                    (!scores || types.teacher_logit == found);
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
    table.weight[l] = p.levels[l].weight;
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
    const bool location_major = frs::location_major(level.teacher_logit, {}, {});
    tiles::Cut& cut = table.cuts[l];
    cut = cut_of(level.batch, level.logit_channels, level.locations, location_major);
    table.teacher[l] = side_of(level.teacher_logit, location_major);
    cut.wide = cut.columns % width == 0 && aligned(table.teacher[l], cut, type);
    cut.lanes_log2 = tiles::choose_lanes(cut.columns, width, cut.wide);
    table.score[l] = level.weight;
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
    imitation |= p.levels[l].student_feat.data != nullptr;
    head |= p.levels[l].student_logit.data != nullptr;
    table.deferred[0] |= p.levels[l].feat_grad.data != nullptr && types.student_feat == DType::f16;
    table.deferred[1] |= p.levels[l].logit_grad.data != nullptr && types.student_logit == DType::f16;
  }
  plan.single_pass = p.mask_from_logits && p.levels[0].weight == nullptr;
  plan.logit_type = types.teacher_logit;
  plan.codec = choose_codec(p, types, imitation, head, plan.single_pass);

  table.num_levels = levels;
  table.normalizer = p.normalizer;
  table.divisor = p.divisor;
  table.scale[0] = p.feat_scale, table.scale[1] = p.head_scale;
  table.beta = p.beta;
  table.losses = p.losses;
  table.pending = p.pending;
  table.student_type[0] = types.student_feat, table.teacher_type[0] = types.teacher_feat;
  table.student_type[1] = types.student_logit, table.teacher_type[1] = types.teacher_logit;

  const uint32_t width = run_width(plan.codec);
  for (int l = 0; l < levels; ++l) {
    fill_term(table.terms[l], table.cuts[l], p.levels[l], false, types.student_feat, types.teacher_feat,
              width);
    fill_term(table.terms[levels + l], table.cuts[levels + l], p.levels[l], true, types.student_logit,
              types.teacher_logit, width);
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
    const bool sums = p.normalizer == Normalizer::weight || p.normalizer == Normalizer::weight_channels;
    if (p.mask_from_logits) {
      plan.tiles = plan_scores(plan.scores, p.levels, levels, types.teacher_logit);
      if (plan.tiles > 0) plan.first = LossPlan::First::scores;
      for (int l = 0; l < levels; ++l) table.first_tile[l] = plan.scores.first_tile[l];
    } else if (sums) {
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
