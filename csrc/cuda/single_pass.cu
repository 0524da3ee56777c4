// No gradient wanted, S from the logits: scores and both losses in one pass, every tensor read once.
#include "finish.cuh"
#include "imitation.cuh"
#include "launch.h"
#include "score.cuh"

namespace frs::cuda {
namespace {

// This thread's share of the tile's S * imitation term, S being score[0..kTile) of the block's locations.
template <class C>
__device__ __forceinline__ typename C::Acc imitation_share(Ring<C, 2>& ring, const LossTable& table,
                                                           int level, const tiles::ScoreTile& tile,
                                                           const typename C::Acc* score) {
  using Acc = typename C::Acc;
  const Term& term = table.terms[level];
  Cut cut = table.cuts[level];
  if (cut.batch == 0) return 0;
  const C student(table.student_type[0]), teacher(table.teacher_type[0]);
  const Acc* channel = static_cast<const Acc*>(term.channel_weight);
  if (channel != nullptr) channel += int64_t{tile.batch} * cut.channels();
  const Acc* weight = score - tile.location;  // indexed by location
  const uint32_t warp = threadIdx.x / kWarp;
  auto least = [](uint32_t a, uint32_t b) { return a < b ? a : b; };

  const uint32_t begin = warp * cut.rows_per_piece + (cut.location_major ? 0 : tile.location);
  Piece piece{tile.batch, least(begin, cut.rows), least(begin + cut.rows_per_piece, cut.rows), 0};
  const Imitation<Acc> loss;
  // Location-major: one column tile, cut off where `score` ends (a warp's narrow columns would reach beyond).
  if (cut.location_major) cut.columns = least(cut.columns, tile.location + tiles::score_tile(C::kWidth));
  const uint32_t end = cut.location_major ? tile.location + 1 : cut.columns;
  Acc share = 0;
  for (piece.column = cut.location_major ? tile.location : 0; piece.column < end;) {
    share += stream<false>(ring, loss, student, teacher, term, cut, piece, weight, channel, Acc(1));
    piece.column += cut.lanes() * C::kWidth;
  }
  return share;
}

// Fills `score`; returns this thread's share of the tile's S * head term (0 without a head term).
template <class HeadLoss, class C>
__device__ __forceinline__ typename C::Acc head_share(
    Ring<C, 2>& ring, const HeadLoss& loss, const LossTable& table, int index, const tiles::ScoreTile& tile,
    typename C::Acc* score, typename C::Acc (*best_of)[tiles::score_tile(C::kWidth)]) {
  const Term& term = table.terms[index];
  const C student(table.student_type[1]), teacher(table.teacher_type[1]);
  return Scorer<HeadLoss, C, Ring<C, 2>>{
      loss, student, teacher, term.student, term.teacher, table.cuts[index], tile, score, best_of, ring}
      .run();
}

// scale / Z * (the sum of the term's partials), or 0 where Z is 0.
template <class Acc>
__device__ __forceinline__ Acc level_loss(const LossTable& table, int level, int kind, const Acc* partials) {
  const uint32_t first = table.first_tile[level];
  const Acc z = divisor<Acc>(table, level, table.cuts[kind * table.num_levels + level]);
  const Acc sum = block_sum_of(partials + first, table.first_tile[level + 1] - first);
  return z == 0 ? Acc(0) : scalar<Acc>(table.scale[kind]) / z * sum;
}

template <class C, class HeadLoss>
__global__ void __launch_bounds__(kThreads, 2) single_pass_kernel(const __grid_constant__ LossTable table) {
  using Acc = typename C::Acc;
  constexpr uint32_t kTile = tiles::score_tile(C::kWidth);
  __shared__ __align__(16) Acc score[kTile], best_of[kThreads * C::kWidth / kTile][kTile];
  __shared__ Ring<C, 2> ring;
  const int levels = table.num_levels;
  const uint32_t tiles = table.first_tile[levels];
  Acc* tile_sums = static_cast<Acc*>(table.tile_sums);
  Acc* feature_sums = static_cast<Acc*>(table.partials);
  Acc* head_sums = feature_sums + tiles;
  if (blockIdx.x < tiles) {
    const int level = tiles::find_range(table.first_tile, levels, blockIdx.x);
    const auto tile = tiles::score_tile_of(blockIdx.x - table.first_tile[level],
                                           table.cuts[levels + level].locations(), C::kWidth);
    auto write = [&](Acc* sums, Acc share) {  // each as soon as it is known: no register keeps it
      const Acc sum = block_sum(share);
      if (threadIdx.x == 0) sums[blockIdx.x] = sum;
    };
    const int index = levels + level;
    write(head_sums, table.terms[index].student.data == nullptr
                         ? head_share(ring, NoHead<Acc>(), table, index, tile, score, best_of)
                         : head_share(ring, HeadLoss(table.beta), table, index, tile, score, best_of));
    write(feature_sums, imitation_share(ring, table, level, tile, score));
    write(tile_sums, threadIdx.x < kTile ? score[threadIdx.x] : Acc(0));
  }
  if (!arrives_last(table.counter)) return;

  Acc feature = 0, head = 0;
  for (int l = 0; l < levels; ++l) {
    if (table.terms[l].student.data != nullptr) feature += level_loss<Acc>(table, l, 0, feature_sums);
    if (table.terms[levels + l].student.data != nullptr) head += level_loss<Acc>(table, l, 1, head_sums);
  }
  write_losses(table, feature, head);
  for (int i = threadIdx.x; i < 2 * levels; i += kThreads) static_cast<Acc*>(table.pending)[i] = 1;
}

}  // namespace

cudaError_t detail::launch_single_pass(const LossPlan& plan, cudaStream_t stream) {
  const uint32_t blocks = plan.tiles > 0 ? plan.tiles : 1;
  auto with = [&](void (*kernel)(LossTable)) { return launch(kernel, blocks, plan.table, stream); };
  using F64 = Codec<DType::f64>;
  const bool focal = plan.table.beta > 0;
  switch (plan.codec) {
    case static_cast<int>(DType::f32):
      return with(single_pass_kernel<Codec<DType::f32>, Head<float>>);
    case static_cast<int>(DType::bf16):
      return with(single_pass_kernel<Codec<DType::bf16>, Head<float>>);
    case static_cast<int>(DType::f16):
      return with(single_pass_kernel<Codec<DType::f16>, Head<float>>);
    case static_cast<int>(DType::f64):
      return with(focal ? single_pass_kernel<F64, FocalHead<double>> : single_pass_kernel<F64, Head<double>>);
    default:
      return with(focal ? single_pass_kernel<AnyCodec, FocalHead<float>>
                        : single_pass_kernel<AnyCodec, Head<float>>);
  }
}

}  // namespace frs::cuda
