// The second phase where S and Z are known: losses and gradients of both terms of all levels in one launch.
#include "finish.cuh"
#include "head.cuh"
#include "imitation.cuh"
#include "launch.h"
#include "stream.cuh"

namespace frs::cuda {
namespace {

// A block's work on term `index` (kind 0 imitation, 1 head): this thread's share of scale / Z * sum of S *
// loss, as far as the gradients carry scale / Z; where they do not, `lacking` gets it for the block's sum,
// else 1.
template <class C, class Loss>
__device__ __forceinline__ typename C::Acc term_share(Ring<C, 2>& ring, typename C::Acc& lacking,
                                                      const Loss& loss, const LossTable& table, int kind,
                                                      int index, uint32_t block) {
  using Acc = typename C::Acc;
  const Term& term = table.terms[index];
  const Cut& cut = table.cuts[index];
  const Acc z = divisor<Acc>(table, index - kind * table.num_levels, cut);
  const Acc factor = z == 0 ? Acc(0) : scalar<Acc>(table.scale[kind]) / z;
  const uint32_t first = table.first_block[index];
  if (threadIdx.x == 0) {
    lacking = table.deferred[kind] ? factor : Acc(1);
    if (block == first) static_cast<Acc*>(table.pending)[index] = lacking;
  }

  const Piece piece = tiles::piece_of(cut, block - first, threadIdx.x / kWarp, C::kWidth);
  const C student(table.student_type[kind]), teacher(table.teacher_type[kind]);
  if (z == 0) {
    if (term.gradient.data == nullptr) return 0;
    cut.wide ? clear_gradient<true>(student, term, cut, piece)
             : clear_gradient<false>(student, term, cut, piece);
    return 0;
  }
  const Acc* weight = static_cast<const Acc*>(term.location_weight) + int64_t{piece.batch} * cut.locations();
  const Acc* channel = static_cast<const Acc*>(term.channel_weight);
  if (channel != nullptr) channel += int64_t{piece.batch} * cut.channels();
  return stream<true>(ring, loss, student, teacher, term, cut, piece, weight, channel,
                      table.deferred[kind] ? Acc(1) : factor);
}

// Blocks that must fit on a multiprocessor together: a limit on registers. Four instead of three gain
// nothing.
template <class C>
constexpr int kMinBlocks = C::kWords > 4 || sizeof(typename C::Acc) > 4 ? 2 : 3;

// The head term first, and its first level first: the first phase has read that level's logits last, and
// their end is still in the L2 cache. Every block writes its partial[block]; the block that arrives last adds
// them up.
template <class C, class HeadLoss>
__global__ void __launch_bounds__(kThreads, kMinBlocks<C>)
    loss_kernel(const __grid_constant__ LossTable table) {
  using Acc = typename C::Acc;
  __shared__ Ring<C, 2> ring;
  __shared__ Acc lacking;
  const int levels = table.num_levels;
  const uint32_t blocks = table.first_block[2 * levels], heads = table.first_block[levels];
  const uint32_t head_blocks = blocks - heads;
  const uint32_t block = blockIdx.x < head_blocks ? heads + blockIdx.x : gridDim.x - 1 - blockIdx.x;
  Acc* partials = static_cast<Acc*>(table.partials);
  if (block < blocks) {
    const int index = tiles::find_range(table.first_block, 2 * levels, block);
    const Acc share = index < levels
                          ? term_share(ring, lacking, Imitation<Acc>(), table, 0, index, block)
                          : term_share(ring, lacking, HeadLoss(table.beta), table, 1, index, block);
    const Acc sum = block_sum(share);
    if (threadIdx.x == 0) partials[block] = sum * lacking;
  }
  if (!arrives_last(table.counter)) return;

  const Acc feature = block_sum_of(partials, heads);
  const Acc head = block_sum_of(partials + heads, blocks - heads);
  write_losses(table, feature, head);
  for (int i = threadIdx.x; i < 2 * levels; i += kThreads) {
    if (table.first_block[i] == table.first_block[i + 1]) static_cast<Acc*>(table.pending)[i] = 1;
  }
}

}  // namespace

cudaError_t detail::launch_loss(const LossPlan& plan, cudaStream_t stream) {
  const uint32_t blocks = plan.table.first_block[2 * plan.table.num_levels];
  auto with = [&](void (*kernel)(LossTable)) {
    return launch(kernel, blocks > 0 ? blocks : 1, plan.table, stream);
  };
  using F64 = Codec<DType::f64>;
  const bool focal = plan.table.beta > 0;
  switch (plan.codec) {
    case static_cast<int>(DType::f32):
      return with(loss_kernel<Codec<DType::f32>, Head<float>>);
    case static_cast<int>(DType::bf16):
      return with(loss_kernel<Codec<DType::bf16>, Head<float>>);
    case static_cast<int>(DType::f16):
      return with(loss_kernel<Codec<DType::f16>, Head<float>>);
    case static_cast<int>(DType::f64):
      return with(focal ? loss_kernel<F64, FocalHead<double>> : loss_kernel<F64, Head<double>>);
    default:
      return with(focal ? loss_kernel<AnyCodec, FocalHead<float>> : loss_kernel<AnyCodec, Head<float>>);
  }
}

}  // namespace frs::cuda
