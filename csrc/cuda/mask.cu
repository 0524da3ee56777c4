// The first phase: S of every location and its sum over every tile; or, where S is given, the sums alone.
#include "launch.h"
#include "plan.h"
#include "score.cuh"

namespace frs::cuda {
namespace {

constexpr int kScoreBlocks = 4;  // that must fit on a multiprocessor together: a limit on registers

// The last levels first: they are small, and where their rows are not aligned to 16 bytes a block takes
// several times as long as one of a large level. At the end of the launch nothing would be left to run beside
// it.
template <class C>
__global__ void __launch_bounds__(kThreads, kScoreBlocks)
    score_kernel(const __grid_constant__ ScoreTable table) {
  using Acc = typename C::Acc;
  using Scores = Scorer<NoHead<Acc>, C, Ring<C, 1>>;
  constexpr uint32_t kTile = Scores::kTile;
  __shared__ __align__(16) Acc score[kTile], best_of[Scores::kGroups][kTile];
  __shared__ Ring<C, 1> ring;
  if (blockIdx.x == 0 && threadIdx.x == 0 && table.counter != nullptr) *table.counter = 0;

  const uint32_t block = gridDim.x - 1 - blockIdx.x;
  const int level = tiles::find_range(table.first_tile, table.num_levels, block);
  const Cut& cut = table.cuts[level];
  const uint32_t locations = cut.locations();
  const auto tile = tiles::score_tile_of(block - table.first_tile[level], locations, C::kWidth);
  const C codec(DType::f32);
  const Side& teacher = table.teacher[level];
  const NoHead<Acc> none;
  Scores{none, codec, codec, teacher, teacher, cut, tile, score, best_of, ring}.run();

  const uint32_t location = tile.location + threadIdx.x;
  const Acc s = threadIdx.x < kTile ? score[threadIdx.x] : Acc(0);
  if (threadIdx.x < kTile && location < locations) {
    static_cast<Acc*>(table.score[level])[int64_t{tile.batch} * locations + location] = s;
  }
  if (table.tile_sums != nullptr) {
    const Acc sum = block_sum(s);
    if (threadIdx.x == 0) static_cast<Acc*>(table.tile_sums)[block] = sum;
  }
}

template <class Acc>
__global__ void __launch_bounds__(kThreads) weight_sum_kernel(const __grid_constant__ WeightTable table) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *table.counter = 0;
  const int level = tiles::find_range(table.first_tile, table.num_levels, blockIdx.x);
  const Acc* weight = static_cast<const Acc*>(table.weight[level]);
  const int64_t begin = int64_t{blockIdx.x - table.first_tile[level]} * kWeightTile, size = table.size[level];
  const int64_t end = size - begin < kWeightTile ? size : begin + kWeightTile;
  Acc sum = 0;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) sum += weight[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) static_cast<Acc*>(table.tile_sums)[blockIdx.x] = sum;
}

}  // namespace

cudaError_t detail::launch_scores(const ScoreTable& table, uint32_t tiles, DType type, cudaStream_t stream) {
  switch (type) {
    case DType::f32:
      return launch(score_kernel<Codec<DType::f32>>, tiles, table, stream);
    case DType::bf16:
      return launch(score_kernel<Codec<DType::bf16>>, tiles, table, stream);
    case DType::f16:
      return launch(score_kernel<Codec<DType::f16>>, tiles, table, stream);
    default:
      return launch(score_kernel<Codec<DType::f64>>, tiles, table, stream);
  }
}

cudaError_t detail::launch_weight_sums(const WeightTable& table, uint32_t tiles, bool double_precision,
                                       cudaStream_t stream) {
  return launch(double_precision ? weight_sum_kernel<double> : weight_sum_kernel<float>, tiles, table,
                stream);
}

cudaError_t mask(const Level* levels, int num_levels, DType teacher_logit, cudaStream_t stream) {
  ScoreTable table;
  const uint32_t tiles = plan_scores(table, levels, num_levels, teacher_logit);
  return tiles == 0 ? cudaSuccess : detail::launch_scores(table, tiles, teacher_logit, stream);
}

}  // namespace frs::cuda
