// What multiplies a term: the factor scale / Z_l, and the normalizer Z_l.
#pragma once

#include "reduce.cuh"
#include "table.h"

namespace frs::cuda {

template <class Acc>
__device__ __forceinline__ Acc scalar(const Scalar& s) {
  const Acc value = static_cast<Acc>(s.value);
  return s.device == nullptr ? value : value * *static_cast<const Acc*>(s.device);
}

// Z_l of a term. All threads of the block must call it: the sum of S over the level is reduced here, from the
// tile sums of the mask pass.
template <class Acc>
__device__ __forceinline__ Acc normalizer(const LossTable& table, int level, const tiles::Tiling& tiling) {
  switch (table.normalizer) {
    case Normalizer::batch:
      return static_cast<Acc>(tiling.batch);
    case Normalizer::numel:
      return static_cast<Acc>(static_cast<double>(tiling.batch) * tiling.rows * tiling.columns);
    case Normalizer::value:
      return scalar<Acc>(table.normalizer_value);
    default:
      break;
  }
  const uint32_t first = table.first_tile[level];
  const Acc n =
      block_sum_of(static_cast<const Acc*>(table.tile_sums) + first, table.first_tile[level + 1] - first);
  return table.normalizer == Normalizer::mask
             ? n
             : static_cast<Acc>(tiling.channels()) * n + static_cast<Acc>(1e-9);
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
