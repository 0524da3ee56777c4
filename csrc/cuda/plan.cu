// How a call of the loss is divided among kernels, blocks and warps. Host code.
#include <cstdint>

#include "plan.h"

namespace frs::cuda {
namespace {

using tiles::Tiling;

bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// Whether every row is aligned to 16 bytes. The strides of dimensions of size 1 are never used.
bool aligned(const Matrices& matrices, const Tiling& tiling, DType type) {
  const int64_t bytes = static_cast<int64_t>(size_of(type));
  return aligned(matrices.data) && (tiling.rows <= 1 || matrices.row_stride * bytes % 16 == 0) &&
         (tiling.batch <= 1 || matrices.batch_stride * bytes % 16 == 0);
}

Matrices matrices_of(const TensorView& view, bool location_major) {
  return {view.data, location_major ? view.stride_c : view.stride_l, view.stride_b};
}

Tiling untiled(int64_t batch, int64_t channels, int64_t locations, bool location_major) {
  Tiling tiling;
  tiling.batch = static_cast<uint32_t>(batch);
  tiling.rows = static_cast<uint32_t>(location_major ? channels : locations);
  tiling.columns = static_cast<uint32_t>(location_major ? locations : channels);
  tiling.location_major = location_major;
  return tiling;
}

// Fills in one term of one level for the loss kernel or the single-pass kernel, not yet divided into tiles.
void plan_term(TermMatrices& matrices, Tiling& tiling, const Level& level, const Term& term,
               const TermTypes& types, uint32_t width) {
  const bool location_major = term.location_major();
  matrices = {matrices_of(term.student, location_major), matrices_of(term.teacher, location_major),
              matrices_of(term.grad, location_major), level.mask, term.channel_weight};
  const bool present = term.teacher.present();
  tiling = untiled(present ? level.batch : 0, term.channels, level.locations, location_major);
  tiling.vectorized = tiling.columns % width == 0 && aligned(matrices.student, tiling, types.student) &&
                      aligned(matrices.teacher, tiling, types.teacher) &&
                      aligned(matrices.grad, tiling, types.student) &&
                      aligned(location_major ? matrices.mask : matrices.channel_weight);
}

// The codec of the lists that a kernel reads together, if they have one dtype.
CodecId choose_codec(const LossParams& p, const DTypes& types, bool imitation, bool head) {
  if (types.double_precision()) return CodecId::f64;
  if (head && p.beta > 0) return CodecId::any;
  const bool teacher_logits = head || p.mode == Mode::single_pass;
  const DType type = imitation ? types.imitation.student : types.head.teacher;
  const bool same = (!imitation || types.imitation.teacher == type) &&
                    (!head || types.head.student == type) && (!teacher_logits || types.head.teacher == type);
  return same ? static_cast<CodecId>(type) : CodecId::any;
}

// The kernels' arguments that do not depend on how the levels are divided.
LossTable arguments_of(const LossParams& p, const DTypes& types) {
  LossTable table;
  table.num_levels = p.num_levels;
  table.normalizer = p.normalizer;
  table.normalizer_value = p.normalizer_value;
  table.scale[kImitation] = p.feat_scale, table.scale[kHead] = p.head_scale;
  table.beta = p.beta;
  table.per_image = p.per_image;
  if (p.per_image) table.images = static_cast<uint32_t>(p.levels[0].batch);
  table.losses = p.losses;
  table.level_losses = p.level_losses;
  table.pending = p.pending;
  table.student_type[kImitation] = types.imitation.student,
  table.teacher_type[kImitation] = types.imitation.teacher;
  table.student_type[kHead] = types.head.student, table.teacher_type[kHead] = types.head.teacher;
  for (int l = 0; l < p.num_levels; ++l) {
    const Level& level = p.levels[l];
    table.pending_factor[kImitation] |=
        level.imitation.grad.present() && pending_factor(types.imitation.student);
    table.pending_factor[kHead] |= level.head.grad.present() && pending_factor(types.head.student);
  }
  return table;
}

// Every warp of a single-pass block takes an eighth of the imitation term at its tile of locations: an eighth
// of the channels where rows are channels, of the locations where rows are locations.
void fit_to_mask_tile(Tiling& tiling, uint32_t width) {
  if (tiling.location_major) {
    tiling.lanes_log2 = 0;
    while ((width << tiling.lanes_log2) < tiles::mask_tile_size(width)) ++tiling.lanes_log2;
    const uint32_t step = tiling.rows_per_step();
    tiling.tile_rows = tiles::ceil_div(tiles::ceil_div(tiling.rows, tiles::kWarps), step) * step;
  } else {
    tiling.lanes_log2 = tiles::choose_lanes(tiling.columns, width, tiling.vectorized);
    tiling.tile_rows = tiles::mask_tile_size(width) / tiles::kWarps;
  }
}

// One block per tile of locations. Returns the number of tiles.
uint32_t plan_single_pass(LossTable& table, uint32_t width) {
  uint32_t tiles = 0;
  for (int l = 0; l < table.num_levels; ++l) {
    fit_to_mask_tile(table.tilings[l], width);
    Tiling& logits = table.tilings[table.num_levels + l];
    logits.lanes_log2 = tiles::choose_lanes(logits.columns, width, logits.vectorized);
    table.first_tile[l] = tiles;
    tiles += tiles::ceil_div(logits.locations(), tiles::mask_tile_size(width)) * logits.batch;
  }
  for (int l = 0; l < table.num_levels; ++l) {
    table.first_block[l] = table.first_tile[l];
    table.first_block[table.num_levels + l] = tiles + table.first_tile[l];
  }
  return tiles;
}

uint32_t plan_mask_sum(MaskSumTable& table, const LossParams& p) {
  uint32_t tiles = 0;
  table.num_levels = p.num_levels;
  for (int l = 0; l < p.num_levels; ++l) {
    table.mask[l] = p.levels[l].mask;
    table.size[l] = p.levels[l].batch * p.levels[l].locations;
    table.first_tile[l] = tiles;
    tiles += static_cast<uint32_t>((table.size[l] + kMaskSumTile - 1) / kMaskSumTile);
  }
  return tiles;
}

// Plans the launch before the loss kernel: the mask pass, or the sums of given masks if the normalizer needs
// them. Returns the number of tiles that have a sum of S.
uint32_t plan_first_launch(LossPlan& plan, const LossParams& p) {
  uint32_t tiles = 0;
  const uint32_t* first_tile = nullptr;
  if (p.mode == Mode::mask_first) {
    tiles = plan_mask(plan.mask, p.levels, p.num_levels, plan.logits);
    first_tile = plan.mask.first_tile;
    if (tiles > 0) plan.first = LossPlan::First::mask;
  } else if (needs_mask_sum(p.normalizer)) {
    tiles = plan_mask_sum(plan.mask_sum, p);
    first_tile = plan.mask_sum.first_tile;
    if (tiles > 0) plan.first = LossPlan::First::mask_sum;
  }
  for (int l = 0; first_tile != nullptr && l < p.num_levels; ++l) plan.loss.first_tile[l] = first_tile[l];
  return tiles;
}

// The tiles whose sums of S are in the normalizer of each level.
void choose_mask_tiles(LossTable& table) {
  for (int l = 0; l < table.num_levels; ++l) {
    const bool all = spans_levels(table.normalizer);
    const uint32_t first = all ? 0 : table.first_tile[l];
    table.mask_tiles[l] = {first, table.first_tile[all ? table.num_levels : l + 1] - first};
  }
}

}  // namespace

uint32_t plan_mask(MaskTable& table, const Level* levels, int num_levels, DType teacher) {
  const uint32_t width = vector_width(static_cast<CodecId>(teacher));
  uint32_t tiles = 0;
  table.num_levels = num_levels;
  for (int l = 0; l < num_levels; ++l) {
    const Level& level = levels[l];
    const bool location_major = level.head.teacher.location_major();
    Tiling& tiling = table.tilings[l];
    tiling = untiled(level.batch, level.head.channels, level.locations, location_major);
    table.teacher[l] = matrices_of(level.head.teacher, location_major);
    tiling.vectorized = tiling.columns % width == 0 && aligned(table.teacher[l], tiling, teacher);
    tiling.lanes_log2 = tiles::choose_lanes(tiling.columns, width, tiling.vectorized);
    table.mask[l] = level.mask;
    table.first_tile[l] = tiles;
    tiles += tiles::ceil_div(tiling.locations(), tiles::mask_tile_size(width)) * tiling.batch;
  }
  return tiles;
}

LossPlan plan_loss(const LossParams& p, const DTypes& types) {
  LossPlan plan;
  const int levels = p.num_levels;
  bool imitation = false, head = false;
  for (int l = 0; l < levels; ++l) {
    imitation |= p.levels[l].imitation.student.present();
    head |= p.levels[l].head.student.present();
  }
  plan.single_pass = p.mode == Mode::single_pass;
  plan.logits = types.head.teacher;
  plan.codec = choose_codec(p, types, imitation, head);

  LossTable& table = plan.loss = arguments_of(p, types);
  const uint32_t width = vector_width(plan.codec);
  for (int l = 0; l < levels; ++l) {
    const Level& level = p.levels[l];
    plan_term(table.terms[l], table.tilings[l], level, level.imitation, types.imitation, width);
    plan_term(table.terms[levels + l], table.tilings[levels + l], level, level.head, types.head, width);
  }

  uint32_t partials = 0;
  if (plan.single_pass) {
    plan.tiles = plan_single_pass(table, width);
    partials = 2 * plan.tiles;
  } else {
    // Without a head term the loss kernel must not process the teacher's logits, which only the mask pass
    // reads.
    for (int l = 0; !head && l < levels; ++l) table.tilings[levels + l].batch = 0;
    partials = tiles::tile_terms(table.tilings, table.first_block, 2 * levels, width);
    plan.tiles = plan_first_launch(plan, p);
  }
  table.first_block[2 * levels] = partials;
  table.first_tile[levels] = plan.tiles;
  if (needs_mask_sum(table.normalizer)) choose_mask_tiles(table);
  if (p.per_image && !plan.single_pass) partials += partials * tiles::kWarps;  // those of the warps

  const size_t element = types.double_precision() ? 8 : 4;
  plan.workspace = (1 + size_t{plan.tiles} + partials) * element;  // counter, tile sums, partials
  return plan;
}

}  // namespace frs::cuda
