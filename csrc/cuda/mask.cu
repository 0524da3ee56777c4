// The mask pass: S of every location, and the sum of S over every tile of locations. Given masks are only
// summed.
#include "launch.cuh"
#include "logit_tile.cuh"
#include "plan.h"

namespace frs::cuda {
namespace {

constexpr int kMinMaskBlocks = 4;  // per multiprocessor: limits the registers

// The last levels come first. They are small, and a block takes several times as long where rows are not
// aligned to 16 bytes; at the end of the launch it would leave the other multiprocessors idle (tail effect).
template <class C>
__global__ void __launch_bounds__(kThreads, kMinMaskBlocks)
    mask_kernel(const __grid_constant__ MaskTable table) {
  using Acc = typename C::Acc;
  using LogitRing = Ring<C, 1>;
  using BlockTile = LogitTile<NoHead<Acc>, C, LogitRing>;
  constexpr uint32_t kTile = BlockTile::kTile;
  __shared__ __align__(16) Acc mask[kTile], group_largest[BlockTile::kGroups][kTile];
  __shared__ LogitRing ring;
  if (blockIdx.x == 0 && threadIdx.x == 0 && table.counter != nullptr) *table.counter = 0;

  const uint32_t block = gridDim.x - 1 - blockIdx.x;
  const int level = tiles::find_range(table.first_tile, table.num_levels, block);
  const Tiling& tiling = table.tilings[level];
  const uint32_t locations = tiling.locations();
  const auto tile = tiles::mask_tile_of(block - table.first_tile[level], locations, C::kWidth);
  const C codec(DType::f32);
  const Matrices& teacher = table.teacher[level];
  const NoHead<Acc> none;
  BlockTile{none, codec, codec, teacher, teacher, tiling, tile, mask, group_largest, ring}.run();

  const uint32_t location = tile.location + threadIdx.x;
  const Acc s = threadIdx.x < kTile ? mask[threadIdx.x] : Acc(0);
  if (threadIdx.x < kTile && location < locations) {
    static_cast<Acc*>(table.mask[level])[int64_t{tile.batch} * locations + location] = s;
  }
  if (table.tile_sums != nullptr) {
    const Acc sum = block_sum(s);
    if (threadIdx.x == 0) static_cast<Acc*>(table.tile_sums)[block] = sum;
  }
}

template <class Acc>
__global__ void __launch_bounds__(kThreads) mask_sum_kernel(const __grid_constant__ MaskSumTable table) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *table.counter = 0;
  const int level = tiles::find_range(table.first_tile, table.num_levels, blockIdx.x);
  const Acc* mask = static_cast<const Acc*>(table.mask[level]);
  const int64_t begin = int64_t{blockIdx.x - table.first_tile[level]} * kMaskSumTile,
                size = table.size[level];
  const int64_t end = size - begin < kMaskSumTile ? size : begin + kMaskSumTile;
  Acc sum = 0;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) sum += mask[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) static_cast<Acc*>(table.tile_sums)[blockIdx.x] = sum;
}

}  // namespace

cudaError_t launch_mask(const MaskTable& table, uint32_t tiles, DType teacher, cudaStream_t stream) {
  return with_codec(teacher, [&](auto codec) {
    return launch(mask_kernel<typename decltype(codec)::type>, tiles, table, stream);
  });
}

cudaError_t launch_mask_sum(const MaskSumTable& table, uint32_t tiles, bool double_precision,
                            cudaStream_t stream) {
  return launch(double_precision ? mask_sum_kernel<double> : mask_sum_kernel<float>, tiles, table, stream);
}

cudaError_t mask(const Level* levels, int num_levels, DType teacher, cudaStream_t stream) {
  MaskTable table;
  const uint32_t tiles = plan_mask(table, levels, num_levels, teacher);
  return tiles == 0 ? cudaSuccess : launch_mask(table, tiles, teacher, stream);
}

}  // namespace frs::cuda
