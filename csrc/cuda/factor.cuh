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

// The sum of S that is in Z_l, from the tile sums of the mask pass. All threads of the block must call it.
template <class Acc>
__device__ __forceinline__ Acc mask_sum(const LossTable& table, int level) {
  const TileRange tiles = table.mask_tiles[level];
  return block_sum_of(static_cast<const Acc*>(table.tile_sums) + tiles.first, tiles.count);
}

// Z_l of a term; mask_sum() returns the sum of S in it, and is called only where Z_l has one.
template <class Acc, class MaskSum>
__device__ __forceinline__ Acc normalizer(const LossTable& table, const tiles::Tiling& tiling,
                                          const MaskSum& mask_sum) {
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
