// What the second phases share: Z_l, scales, and the last block's part.
#pragma once

#include "reduce.cuh"
#include "table.h"

namespace frs::cuda {

template <class Acc>
__device__ __forceinline__ Acc scalar(const Scalar& s) {
  const Acc value = static_cast<Acc>(s.value);
  return s.device == nullptr ? value : value * *static_cast<const Acc*>(s.device);
}

// Z_l of a term. All threads of the block call it: the sums of the tiles are added up here, in one fixed
// order.
template <class Acc>
__device__ __forceinline__ Acc divisor(const LossTable& table, int level, const tiles::Cut& cut) {
  switch (table.normalizer) {
    case Normalizer::batch:
      return static_cast<Acc>(cut.batch);
    case Normalizer::numel:
      return static_cast<Acc>(static_cast<double>(cut.batch) * cut.rows * cut.columns);
    case Normalizer::value:
      return scalar<Acc>(table.divisor);
    default:
      break;
  }
  const uint32_t first = table.first_tile[level];
  const Acc n =
      block_sum_of(static_cast<const Acc*>(table.tile_sums) + first, table.first_tile[level + 1] - first);
  return table.normalizer == Normalizer::mask ? n
                                              : static_cast<Acc>(cut.channels()) * n + static_cast<Acc>(1e-9);
}

template <class Acc>
__device__ __forceinline__ void write_losses(const LossTable& table, Acc feature, Acc head) {
  if (threadIdx.x != 0) return;
  Acc* losses = static_cast<Acc*>(table.losses);
  losses[0] = feature;
  losses[1] = head;
  losses[2] = feature + head;
}

}  // namespace frs::cuda
