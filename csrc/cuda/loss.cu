// The loss pass, where S is known: losses and gradients of both terms on all levels in one launch.
#include "factor.cuh"
#include "head.cuh"
#include "imitation.cuh"
#include "launch.cuh"
#include "losses.cuh"
#include "plan.h"
#include "term_tile.cuh"

namespace frs::cuda {
namespace {

// What a block does for `entry` of the table's terms: returns this thread's share of the block's loss, and
// stores its part of the gradient. The share and the gradient contain the factor scale / Z, unless the
// gradients are stored without it. `pending`, in shared memory, is then set to that factor, by which the
// block's sum is multiplied, and else to 1.
template <class C, class ElementLoss>
__device__ __forceinline__ typename C::Acc block_share(Ring<C, 2>& ring, typename C::Acc& pending,
                                                       const ElementLoss& loss, const LossTable& table,
                                                       int term, int entry, uint32_t block) {
  using Acc = typename C::Acc;
  const TermMatrices& matrices = table.terms[entry];
  const Tiling& tiling = table.tilings[entry];
  const int level = entry - term * table.num_levels;
  const Acc z = normalizer<Acc>(table, tiling, [&] { return mask_sum<Acc>(table, level); });
  const Acc factor = cuda::factor(table.scale[term], z);
  const uint32_t first = table.first_block[entry];
  if (threadIdx.x == 0) {
    pending = table.pending_factor[term] ? factor : Acc(1);
    if (block == first) static_cast<Acc*>(table.pending)[entry] = pending;
  }

  const WarpTile tile = tiles::warp_tile_of(tiling, block - first, threadIdx.x / kWarp, C::kWidth);
  const C student(table.student_type[term]), teacher(table.teacher_type[term]);
  if (z == 0) {
    if (matrices.grad.data == nullptr) return 0;
    tiling.vectorized ? clear_grad<true>(student, matrices, tiling, tile)
                      : clear_grad<false>(student, matrices, tiling, tile);
    return 0;
  }
  const Acc* mask = static_cast<const Acc*>(matrices.mask) + int64_t{tile.batch} * tiling.locations();
  const Acc* channel_weight = static_cast<const Acc*>(matrices.channel_weight);
  if (channel_weight != nullptr) channel_weight += int64_t{tile.batch} * tiling.channels();
  const TermTile<C> operands{student, teacher, matrices,       tiling,
                             tile,    mask,    channel_weight, table.pending_factor[term] ? Acc(1) : factor};
  return term_sum<true>(ring, loss, operands);
}

// What the last block does: the losses are sums of the partial sums of all blocks. Those of single warps lack
// the pending factors.
template <class Acc>
__device__ __forceinline__ void write_results(const LossTable& table, Acc (&sums)[kWarps][kMaxTerms]) {
  const uint32_t* first = table.first_block;
  Acc* pending = static_cast<Acc*>(table.pending);
  write_losses(table, sums, [](int, Acc sum) { return sum; });
  for (int e = threadIdx.x; e < 2 * table.num_levels; e += kThreads) {
    if (first[e] == first[e + 1]) pending[e] = 1;
  }
  if (!table.per_image) return;
  auto sums_of = [&](int e, uint32_t image) -> ImageSums<Acc> {
    if (first[e] == first[e + 1]) return {};
    const uint32_t count = tiles::tiles_per_image(table.tilings[e]);
    return {static_cast<const Acc*>(table.warp_partials) + first[e] * kWarps + image * count, count};
  };
  write_image_losses<Acc>(table, sums_of, [&](int e, Acc sum) { return __ldcg(pending + e) * sum; });
}

// Blocks per multiprocessor that the compiler must allow for, which limits the registers. Four instead of
// three gain nothing (docs/tuning-cuda.md).
template <class C>
constexpr int kMinBlocks = C::kWords > 4 || sizeof(typename C::Acc) > 4 ? 2 : 3;

// The head term comes first, from level 0 on: the mask pass has read the logits of that level last, so the
// end of them is still in the L2 cache. Every block writes one partial sum. For losses per image every warp
// writes one too, because the tiles of a block may belong to two images. The block that is done last adds
// them up.
template <class C, class HeadLoss>
__global__ void __launch_bounds__(kThreads, kMinBlocks<C>)
    loss_kernel(const __grid_constant__ LossTable table) {
  using Acc = typename C::Acc;
  __shared__ RingOrSums<C> shared;
  __shared__ Acc pending;
  const int levels = table.num_levels;
  const uint32_t blocks = table.first_block[2 * levels], imitation_blocks = table.first_block[levels];
  const uint32_t head_blocks = blocks - imitation_blocks;
  const uint32_t block =
      blockIdx.x < head_blocks ? imitation_blocks + blockIdx.x : gridDim.x - 1 - blockIdx.x;
  Acc* partials = static_cast<Acc*>(table.partials);
  if (blocks > 0) {
    const int entry = tiles::find_range(table.first_block, 2 * levels, block);
    const Acc share =
        entry < levels ? block_share(shared.ring, pending, Imitation<Acc>(), table, kImitation, entry, block)
                       : block_share(shared.ring, pending, HeadLoss(table.beta), table, kHead, entry, block);
    const Acc sum = warp_sum(share);
    if (table.per_image && threadIdx.x % kWarp == 0) {
      static_cast<Acc*>(table.warp_partials)[block * kWarps + threadIdx.x / kWarp] = sum;
    }
    const Acc total = sum_of_warps(sum);
    if (threadIdx.x == 0) partials[block] = total * pending;
  }
  if (arrives_last(table.counter)) write_results(table, shared.sums);
}

}  // namespace

cudaError_t launch_loss(const LossPlan& plan, cudaStream_t stream) {
  const uint32_t blocks = plan.loss.first_block[2 * plan.loss.num_levels];
  return with_codec_and_head(plan.codec, plan.loss.beta > 0, [&](auto codec, auto head) {
    using C = typename decltype(codec)::type;
    return launch(loss_kernel<C, typename decltype(head)::type>, blocks > 0 ? blocks : 1, plan.loss, stream);
  });
}

cudaError_t loss(LossPlan& plan, void* workspace, cudaStream_t stream) {
  const bool double_precision = plan.codec == CodecId::f64;
  const size_t element = double_precision ? 8 : 4;
  LossTable& table = plan.loss;
  char* memory = static_cast<char*>(workspace);
  table.counter = reinterpret_cast<unsigned*>(memory);
  table.tile_sums = memory + element;
  table.partials = memory + (1 + size_t{plan.tiles}) * element;
  table.warp_partials = memory + (1 + size_t{plan.tiles} + table.first_block[2 * table.num_levels]) * element;
  plan.mask.tile_sums = plan.mask_sum.tile_sums = table.tile_sums;
  plan.mask.counter = plan.mask_sum.counter = table.counter;

  cudaError_t error = cudaSuccess;
  switch (plan.first) {
    case LossPlan::First::mask:
      error = launch_mask(plan.mask, plan.tiles, plan.logits, stream);
      break;
    case LossPlan::First::mask_sum:
      error = launch_mask_sum(plan.mask_sum, plan.tiles, double_precision, stream);
      break;
    case LossPlan::First::clear_counter:
      error = cudaMemsetAsync(table.counter, 0, sizeof(*table.counter), stream);
      break;
  }
  if (error != cudaSuccess) return error;
  return plan.single_pass ? launch_single_pass(plan, stream) : launch_loss(plan, stream);
}

}  // namespace frs::cuda
