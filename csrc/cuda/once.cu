// Gradients wanted, S from the logits, and no gradient waits for the sum of S: one launch. A block finds S of
// its tile, then goes over the tile again for both terms; what it reads of the teacher's logits a second time
// is in the L2 still, so that each tensor crosses the memory bus once.
#include "finish.cuh"
#include "imitation.cuh"
#include "launch.h"
#include "score.cuh"
#include "sweep.cuh"

namespace frs::cuda {
namespace {

// What a line read once more should outlive is read for the last time, or written (past all others: __stcs).
constexpr Keep kFirstReading = Keep::normal, kLastReading = Keep::shortest;

template <class C>
union Rings {  // a thread's slots of one are its slots of the other
  Ring<C, 1, kFirstReading> scores;
  Ring<C, 2, kLastReading> terms;
};

template <class C>
struct Shared {
  using Acc = typename C::Acc;
  static constexpr uint32_t kTile = once_tile(C::kWidth);

  Acc score[kTile], best_of[kThreads * C::kWidth / kTile][kTile];
  Rings<C> rings;
  Acc factor[2];  // imitation, head: scale / Z, or 1 where Z comes later
  bool empty[2];  // Z is 0
  Acc sums[3][kWarps];
};

template <class C>
__device__ __forceinline__ void prepare(Shared<C>& shared, const LossTable& table, int level) {
  using Acc = typename C::Acc;
  if (threadIdx.x >= 2) return;
  const int kind = threadIdx.x;
  shared.factor[kind] = 1;
  shared.empty[kind] = false;
  if (needs_sums(table.normalizer)) return;
  const Acc z = known_divisor<Acc>(table, table.cuts[kind * table.num_levels + level]);
  shared.empty[kind] = z == 0;
  if (!table.deferred[kind]) shared.factor[kind] = scalar<Acc>(table.scale[kind]) / z;
}

// Scorer::location_major for narrow tiles, a lane to a location.
template <class C>
__device__ __forceinline__ void score_columns(Shared<C>& shared, const C& teacher, const Side& side,
                                              const Cut& cut, const tiles::ScoreTile& tile) {
  using Acc = typename C::Acc;
  using Shape = Columnwise<C>;
  const Shape shape(cut, tile.location);
  const int64_t row_bytes = side.row_stride * teacher.bytes();
  Cursor at = Cursor::at(teacher, side, tile.batch, shape.row, Shape::kStep, shape.column(tile.location));
  Acc best = -INFINITY;
  uint32_t left = cut.rows - shape.row;
#pragma unroll 1
  for (uint32_t i = 0; i < shape.count; ++i) {
    uint32_t words[C::kWords];
    Acc y[C::kWidth];
    load_column(teacher, words, at.data, row_bytes, left);
    teacher.unpack(words, y);
#pragma unroll
    for (int j = 0; j < C::kWidth; ++j) best = nan_max(best, y[j]);
    at = at.plus(1);
    left -= Shape::kStep;
  }
  shared.best_of[threadIdx.x / Shape::kTile][shape.place] = best;
  __syncthreads();
  if (threadIdx.x < Shape::kTile) {
    for (uint32_t g = 1; g < kThreads / Shape::kTile; ++g)
      best = nan_max(best, shared.best_of[g][shape.place]);
    shared.score[shape.place] = sigmoid(best);  // beyond the last location that of -Inf, 0
  }
  __syncthreads();
}

template <class C>
__device__ __forceinline__ void find_scores(Shared<C>& shared, const LossTable& table, int index,
                                            const tiles::ScoreTile& tile) {
  using Scores = Scorer<NoHead<typename C::Acc>, C, Ring<C, 1, kFirstReading>, Shared<C>::kTile>;
  const Side& side = table.terms[index].teacher;
  const Cut& cut = table.cuts[index];
  const C teacher(table.teacher_type[1]);
  if (cut.location_major && !cut.wide) return score_columns(shared, teacher, side, cut, tile);
  const NoHead<typename C::Acc> none;
  const Scores scores{none, teacher, teacher,      side,           side,
                      cut,  tile,    shared.score, shared.best_of, shared.rings.scores};
  if (cut.location_major) {
    scores.template location_major<true>();
  } else {
    cut.wide ? scores.template channel_major<true>() : scores.template channel_major<false>();
  }
}

// The block's work on a term of its tile (kind 0 imitation, 1 head): each warp's share of the loss.
template <class C, class Loss>
__device__ __forceinline__ void work(Shared<C>& shared, const Loss& loss, const LossTable& table, int kind,
                                     int level, const tiles::ScoreTile& tile) {
  using Acc = typename C::Acc;
  const Term& term = table.terms[kind * table.num_levels + level];
  const Cut& cut = table.cuts[kind * table.num_levels + level];
  Acc share = 0;
  if (term.student.data != nullptr) {
    const C student(table.student_type[kind]), teacher(table.teacher_type[kind]);
    const Acc* channel = static_cast<const Acc*>(term.channel_weight);
    if (channel != nullptr) channel += int64_t{tile.batch} * cut.channels();
    const Acc *score = shared.score, scale = shared.factor[kind];
    auto& ring = shared.rings.terms;
    const Sweep<Loss, C, Ring<C, 2, kLastReading>> sweep{loss, student, teacher, term,  cut,
                                                         tile, score,   channel, scale, ring};
    if (!shared.empty[kind]) {
      share = sweep.run();
    } else if (term.gradient.data != nullptr) {
      sweep.clear();
    }
  }
  share = warp_sum(share);
  if (threadIdx.x % kWarp == 0) shared.sums[kind][threadIdx.x / kWarp] = share;
}

// A term's loss, from the sums of all tiles, and what its gradients lack: the last block's part.
template <class Acc>
__device__ __forceinline__ Acc finish(const LossTable& table, int kind) {
  constexpr int kAhead = 16;  // the device waits for this block alone
  const int levels = table.num_levels;
  const Acc* sums = static_cast<const Acc*>(table.partials) + kind * table.first_tile[levels];
  Acc* pending = static_cast<Acc*>(table.pending) + kind * levels;
  if (!table.deferred[kind] && !needs_sums(table.normalizer)) {
    if (threadIdx.x < levels) pending[threadIdx.x] = 1;
    return block_sum_of<kAhead>(sums, table.first_tile[levels]);
  }
  Acc loss = 0;
#pragma unroll 1
  for (int level = 0; level < levels; ++level) {
    const int index = kind * levels + level;
    const uint32_t first = table.first_tile[level];
    const Acc sum = block_sum_of<kAhead>(sums + first, table.first_tile[level + 1] - first);
    const Acc z = divisor<Acc>(table, level, table.cuts[index]);
    const Acc factor = z == 0 ? Acc(0) : scalar<Acc>(table.scale[kind]) / z;
    if (z != 0 && table.terms[index].student.data != nullptr) loss += factor * sum;
    if (threadIdx.x == 0) pending[level] = table.deferred[kind] ? factor : Acc(1);
  }
  return loss;
}

template <class C>
constexpr int kMinBlocks = C::kWords > 4 ? 2 : 3;

// Backwards: narrow levels come last in a pyramid, and their blocks take the longest.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks<C>)
    once_kernel(const __grid_constant__ LossTable table) {
  using Acc = typename C::Acc;
  constexpr uint32_t kTile = Shared<C>::kTile;
  __shared__ __align__(16) Shared<C> shared;
  const int levels = table.num_levels;
  const uint32_t tiles = table.first_tile[levels];
  if (blockIdx.x < tiles) {
    const uint32_t index = tiles - 1 - blockIdx.x;
    const int level = tiles::find_range(table.first_tile, levels, index);
    const auto tile = tile_of(index - table.first_tile[level], table.cuts[levels + level].locations(), kTile);
    prepare(shared, table, level);
    find_scores(shared, table, levels + level, tile);
    work(shared, Head<Acc>(0), table, 1, level, tile);
    work(shared, Imitation<Acc>(), table, 0, level, tile);
    const Acc score = warp_sum(threadIdx.x < kTile ? shared.score[threadIdx.x] : Acc(0));
    if (threadIdx.x % kWarp == 0) shared.sums[2][threadIdx.x / kWarp] = score;
    __syncthreads();
    if (threadIdx.x < 3) {
      Acc* sums = threadIdx.x == 2 ? static_cast<Acc*>(table.tile_sums)
                                   : static_cast<Acc*>(table.partials) + threadIdx.x * tiles;
      Acc sum = 0;
      for (uint32_t warp = 0; warp < kWarps; ++warp) sum += shared.sums[threadIdx.x][warp];
      sums[index] = sum;
    }
  }
  if (!arrives_last(table.counter)) return;
  const Acc feature = finish<Acc>(table, 0);
  write_losses(table, feature, finish<Acc>(table, 1));
}

}  // namespace

cudaError_t detail::launch_once(const LossPlan& plan, cudaStream_t stream) {
  auto with = [&](void (*kernel)(LossTable)) {
    return launch(kernel, plan.tiles > 0 ? plan.tiles : 1, plan.table, stream);
  };
  switch (plan.codec) {
    case static_cast<int>(DType::f32):
      return with(once_kernel<Codec<DType::f32>>);
    case static_cast<int>(DType::bf16):
      return with(once_kernel<Codec<DType::bf16>>);
    case static_cast<int>(DType::f16):
      return with(once_kernel<Codec<DType::f16>>);
    default:
      return with(once_kernel<AnyCodec>);
  }
}

}  // namespace frs::cuda
