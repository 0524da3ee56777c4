// What multiplies a term on one level: the factor scale / Z_l, and the normalizer Z_l in it.
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
  auto mask_sum = [&] {
    const uint32_t first = table.first_tile[level], count = table.first_tile[level + 1] - first;
    return block_sum_of(static_cast<const Acc*>(table.tile_sums) + first, count);
  };
  auto value = [&] { return scalar<Acc>(table.normalizer_value); };
  return normalizer_of<Acc>(table.normalizer, tiling.batch, tiling.channels(), tiling.locations(), mask_sum,
                            value);
}

// scale / Z_l, or 0 where Z_l is 0.
template <class Acc>
__device__ __forceinline__ Acc factor(const Scalar& scale, Acc z) {
  return z == 0 ? Acc(0) : scalar<Acc>(scale) / z;
}

}  // namespace frs::cuda
