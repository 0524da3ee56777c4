// The scores of a tile of locations: S = sigmoid(max_k T_k), and with them, in the same pass, the head term.
#pragma once

#include "head.cuh"
#include "reduce.cuh"
#include "stream.cuh"

namespace frs::cuda {

// A block's work: `score` (shared memory, one tile long) gets S of the locations from tile.location on, 0 beyond
// the last one. Returns this thread's share of the tile's S * head term, if HeadLoss is not NoHead.
template <Reuse kReuse, class HeadLoss, class C>
struct Scorer {
  using Acc = typename C::Acc;
  static constexpr int kWidth = C::kWidth, kRows = HeadLoss::template kRows<C>;
  static constexpr bool kHead = !std::is_same_v<HeadLoss, NoHead<Acc>>;
  static constexpr uint32_t kTile = tiles::score_tile(kWidth), kLanes = kTile / kWidth, kGroups = kThreads / kLanes;
  // A location gets this many elements in one turn of a loop, and may have so many turns before its sums are folded.
  template <int kElements>
  static constexpr uint32_t kTurns = HeadLoss::kMaxFactors / kElements;

  const HeadLoss& loss;
  const C &student, &teacher;
  const Side &student_side, &teacher_side;
  const Cut& cut;
  const tiles::ScoreTile tile;
  Acc* score;

  // Rows are channels: 16 bytes of neighbouring locations to a lane, the channels dealt out to groups of lanes.
  FRS_DEVICE Acc location_major() const {
    __shared__ Acc best_of[kGroups][kTile];
    const uint32_t group = threadIdx.x / kLanes;
    const Columns columns =
        tiles::columns_of(tile.location, cut.columns, threadIdx.x % kLanes, kLanes, kWidth, cut.wide);
    Acc best[kWidth];
#pragma unroll
    for (int j = 0; j < kWidth; ++j) best[j] = -INFINITY;
    typename HeadLoss::Sums sums[kWidth];
    uint32_t turn = 0;
    for (uint32_t row = group; row < cut.rows; row += kRows * kGroups) {
      uint32_t t[kRows][C::kWords], s[kRows][C::kWords];
      load_rows<kReuse>(teacher, t, teacher_side, tile.batch, row, kGroups, cut.rows, columns);
      if constexpr (kHead) load_rows<kReuse>(student, s, student_side, tile.batch, row, kGroups, cut.rows, columns);
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        Acc y[kWidth], x[kWidth];
        teacher.unpack(t[u], y);
        if constexpr (kHead) student.unpack(s[u], x);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          best[j] = nan_max(best[j], y[j]);
          if constexpr (kHead) loss.add(x[j], y[j], 1, sums[j]);
        }
      }
      if constexpr (kHead) {
        if (++turn % kTurns<kRows> == 0) {
#pragma unroll
          for (int j = 0; j < kWidth; ++j) loss.fold(sums[j]);
        }
      }
    }

    const uint32_t first = columns.first - tile.location;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) best_of[group][first + j * columns.step] = best[j];
    __syncthreads();
    if (threadIdx.x < kTile) {
      Acc m = best_of[0][threadIdx.x];
#pragma unroll
      for (uint32_t g = 1; g < kGroups; ++g) m = nan_max(m, best_of[g][threadIdx.x]);
      score[threadIdx.x] = tile.location + threadIdx.x < cut.columns ? sigmoid(m) : Acc(0);
    }
    __syncthreads();
    Acc total = 0;
    if constexpr (kHead) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) total += score[first + j * columns.step] * loss.value(sums[j]);
    }
    return total;
  }

  // Rows are locations: `lanes` lanes walk along the channels of one, 32 / lanes locations to a warp at a time.
  FRS_DEVICE Acc channel_major() const {
    const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const uint32_t lanes = cut.lanes(), step = kWarps * cut.rows_per_step();
    const uint32_t end = tile.location + kTile;
    const uint32_t row_end = end < cut.rows ? end : cut.rows;
    Acc total = 0;
    for (uint32_t base = tile.location + warp * cut.rows_per_step(); base < end; base += kRows * step) {
      const uint32_t row = base + (lane >> cut.lanes_log2);
      Acc best[kRows];
#pragma unroll
      for (int u = 0; u < kRows; ++u) best[u] = -INFINITY;
      typename HeadLoss::Sums sums[kRows];
      uint32_t turn = 0;
      for (uint32_t column = 0; column < cut.columns; column += lanes * kWidth) {
        const Columns columns = tiles::columns_of(column, cut.columns, lane & (lanes - 1), lanes, kWidth, cut.wide);
        uint32_t t[kRows][C::kWords], s[kRows][C::kWords];
        load_rows<kReuse>(teacher, t, teacher_side, tile.batch, row, step, row_end, columns);
        if constexpr (kHead) load_rows<kReuse>(student, s, student_side, tile.batch, row, step, row_end, columns);
#pragma unroll
        for (int u = 0; u < kRows; ++u) {
          Acc y[kWidth], x[kWidth];
          teacher.unpack(t[u], y);
          if constexpr (kHead) student.unpack(s[u], x);
#pragma unroll
          for (int j = 0; j < kWidth; ++j) {
            best[u] = nan_max(best[u], y[j]);
            if constexpr (kHead) loss.add(x[j], y[j], 1, sums[u]);
          }
        }
        if constexpr (kHead) {
          if (++turn % kTurns<kWidth> == 0) {
#pragma unroll
            for (int u = 0; u < kRows; ++u) loss.fold(sums[u]);
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        const uint32_t r = row + u * step;
        const Acc m = group_max(best[u], lanes);
        const Acc s = r < row_end ? sigmoid(m) : Acc(0);
        if constexpr (kHead) total += s * loss.value(sums[u]);
        if (r < end && (lane & (lanes - 1)) == 0) score[r - tile.location] = s;
      }
    }
    __syncthreads();
    return total;
  }

  FRS_DEVICE Acc run() const { return cut.location_major ? location_major() : channel_major(); }
};

}  // namespace frs::cuda
