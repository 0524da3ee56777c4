// The single pass, where no gradient is wanted and S comes from the logits: mask and both losses in one
// launch that reads every tensor once.
#include "factor.cuh"
#include "imitation.cuh"
#include "launch.cuh"
#include "logit_tile.cuh"
#include "losses.cuh"
#include "plan.h"

namespace frs::cuda {
namespace {

FRS_DEVICE uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

// This thread's share of the tile's sum of S * imitation term. `mask` [kTile] is that of the tile's
// locations.
template <class C>
__device__ __forceinline__ typename C::Acc imitation_share(Ring<C, 2>& ring, const LossTable& table,
                                                           int level, const tiles::MaskTile& block_tile,
                                                           const typename C::Acc* mask) {
  using Acc = typename C::Acc;
  const TermMatrices& matrices = table.terms[level];
  Tiling tiling = table.tilings[level];
  if (tiling.batch == 0) return 0;
  const C student(table.student_type[kImitation]), teacher(table.teacher_type[kImitation]);
  const Acc* channel_weight = static_cast<const Acc*>(matrices.channel_weight);
  if (channel_weight != nullptr) channel_weight += int64_t{block_tile.batch} * tiling.channels();

  const bool location_major = tiling.location_major;
  const uint32_t warp = threadIdx.x / kWarp, location = block_tile.location;
  const uint32_t row = warp * tiling.tile_rows + (location_major ? 0 : location);
  WarpTile tile{block_tile.batch, least(row, tiling.rows), least(row + tiling.tile_rows, tiling.rows), 0};
  // Location-major: one tile of columns. The matrix is cut off where `mask` ends, beyond which a lane's
  // single elements would reach.
  if (location_major) tiling.columns = least(tiling.columns, location + tiles::mask_tile_size(C::kWidth));
  const uint32_t end = location_major ? location + 1 : tiling.columns;
  const TermTile<C> operands{student, teacher,         matrices,       tiling,
                             tile,    mask - location, channel_weight, Acc(1)};
  const Imitation<Acc> loss;
  Acc share = 0;
  for (tile.column = location_major ? location : 0; tile.column < end;) {
    share += term_sum<false>(ring, loss, operands);
    tile.column += tiling.lanes() * C::kWidth;
  }
  return share;
}

// Writes `mask`, and returns this thread's share of the tile's sum of S * head term (0 without a head term).
template <class HeadLoss, class C>
__device__ __forceinline__ typename C::Acc head_share(
    Ring<C, 2>& ring, const HeadLoss& loss, const LossTable& table, int entry, const tiles::MaskTile& tile,
    typename C::Acc* mask, typename C::Acc (*group_largest)[tiles::mask_tile_size(C::kWidth)]) {
  const TermMatrices& matrices = table.terms[entry];
  const C student(table.student_type[kHead]), teacher(table.teacher_type[kHead]);
  return LogitTile<HeadLoss, C, Ring<C, 2>>{
      loss, student,       teacher, matrices.student, matrices.teacher, table.tilings[entry], tile,
      mask, group_largest, ring}
      .run();
}

// What the last block does: the losses are the partial sums of all blocks times scale / Z, or 0 where Z is 0.
// `z`, in shared memory, is for the Z of every entry.
template <class Acc>
__device__ __forceinline__ void write_results(const LossTable& table, Acc (&sums)[kWarps][kMaxTerms],
                                              Acc (&z)[kMaxTerms]) {
  const uint32_t* first = table.first_block;
  const int levels = table.num_levels;
  Acc masks = 0;  // the sum of S in Z_l of both terms
  for (int l = 0; l < levels; ++l) {
    const bool is_new = l == 0 || !spans_levels(table.normalizer);
    if (is_new && needs_mask_sum(table.normalizer)) masks = mask_sum<Acc>(table, l);
    if (threadIdx.x > 0) continue;
    for (int e = l; e < 2 * levels; e += levels) {
      const bool present = table.terms[e].student.data != nullptr;
      z[e] = present ? normalizer<Acc>(table, table.tilings[e], [&] { return masks; }) : Acc(0);
      static_cast<Acc*>(table.pending)[e] = 1;
    }
  }
  auto loss_of = [&](int e, Acc sum) {
    return z[e] == 0 ? Acc(0) : factor(table.scale[e < levels ? kImitation : kHead], z[e]) * sum;
  };
  write_losses(table, sums, loss_of);
  if (!table.per_image) return;
  auto sums_of = [&](int e, uint32_t image) -> ImageSums<Acc> {
    const uint32_t count = (first[e + 1] - first[e]) / table.images;
    return {static_cast<const Acc*>(table.partials) + first[e] + image * count, count};
  };
  write_image_losses<Acc>(table, sums_of, loss_of);
}

// A block per tile of locations. The block that is done last adds up the partial sums of the others.
template <class C, class HeadLoss>
__global__ void __launch_bounds__(kThreads, 2) single_pass_kernel(const __grid_constant__ LossTable table) {
  using Acc = typename C::Acc;
  constexpr uint32_t kTile = tiles::mask_tile_size(C::kWidth);
  __shared__ __align__(16) Acc mask[kTile], group_largest[kThreads * C::kWidth / kTile][kTile];
  __shared__ Acc z[kMaxTerms];
  __shared__ RingOrSums<C> shared;
  const int levels = table.num_levels;
  const uint32_t tiles = table.first_tile[levels];
  Acc* tile_sums = static_cast<Acc*>(table.tile_sums);
  Acc* feature_sums = static_cast<Acc*>(table.partials);
  Acc* head_sums = feature_sums + tiles;
  if (blockIdx.x < tiles) {
    const int level = tiles::find_range(table.first_tile, levels, blockIdx.x), entry = levels + level;
    const auto tile = tiles::mask_tile_of(blockIdx.x - table.first_tile[level],
                                          table.tilings[entry].locations(), C::kWidth);
    auto write = [&](Acc* sums,
                     Acc share) {  // right after the share is computed, so that no register holds it
      const Acc sum = block_sum(share);
      if (threadIdx.x == 0) sums[blockIdx.x] = sum;
    };
    auto& ring = shared.ring;
    write(head_sums, table.terms[entry].student.data == nullptr
                         ? head_share(ring, NoHead<Acc>(), table, entry, tile, mask, group_largest)
                         : head_share(ring, HeadLoss(table.beta), table, entry, tile, mask, group_largest));
    write(feature_sums, imitation_share(ring, table, level, tile, mask));
    write(tile_sums, threadIdx.x < kTile ? mask[threadIdx.x] : Acc(0));
  }
  if (arrives_last(table.counter)) write_results(table, shared.sums, z);
}

}  // namespace

cudaError_t launch_single_pass(const LossPlan& plan, cudaStream_t stream) {
  const uint32_t blocks = plan.tiles > 0 ? plan.tiles : 1;
  return with_codec_and_head(plan.codec, plan.loss.beta > 0, [&](auto codec, auto head) {
    using C = typename decltype(codec)::type;
    return launch(single_pass_kernel<C, typename decltype(head)::type>, blocks, plan.loss, stream);
  });
}

}  // namespace frs::cuda
