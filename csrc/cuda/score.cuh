// The scores of a tile of locations: S = sigmoid(max_k T_k), and with them, in the same pass, the head term.
#pragma once

#include <type_traits>

#include "head.cuh"
#include "reduce.cuh"
#include "stream.cuh"

namespace frs::cuda {

// A block's work: `score` (shared memory, one tile long) gets S of the locations from tile.location on, 0
// beyond the last one. Returns this thread's share of the tile's S * head term, if HeadLoss is not NoHead.
template <Reuse kReuse, class HeadLoss, class C>
struct Scorer {
  using Acc = typename C::Acc;
  static constexpr int kWidth = C::kWidth;
  static constexpr bool kHead = !std::is_same_v<HeadLoss, NoHead<Acc>>;
  static constexpr uint32_t kTile = tiles::score_tile(kWidth), kLanes = kTile / kWidth,
                            kGroups = kThreads / kLanes;

  const HeadLoss& loss;
  const C &student, &teacher;
  const Side &student_side, &teacher_side;
  const Cut& cut;
  const tiles::ScoreTile tile;
  Acc* score;
  Acc (*best_of)[kTile];  // shared memory: kGroups rows
  Ring<C>* ring;          // not needed without a head term

  // The next elements of locations: best[j] is the largest logit so far, sums[j] the head term.
  template <class Best, class Sums>
  FRS_DEVICE void add_run(const uint32_t* s, const uint32_t* t, const Best& best, const Sums& sums) const {
    Acc x[kWidth], y[kWidth];
    teacher.unpack(t, y);
    if constexpr (kHead) student.unpack(s, x);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      best(j) = nan_max(best(j), y[j]);
      if constexpr (kHead) loss.add(x[j], y[j], 1, sums(j));
    }
  }

  // Rows are channels: 16 bytes of neighbouring locations to a lane, the channels dealt out to groups of
  // lanes.
  template <bool kWide>
  FRS_DEVICE Acc location_major() const {
    constexpr uint32_t kStep = kWide ? 1 : kLanes;
    constexpr int kRows = kRowsAtOnce<HeadLoss, C, kWide>;
    const uint32_t group = threadIdx.x / kLanes;
    const auto columns = tiles::columns_of<kStep>(tile.location, cut.columns, threadIdx.x % kLanes, kWidth);
    Cursor t_at = Cursor::at(teacher, teacher_side, tile.batch, group, kGroups, columns);
    Cursor s_at = Cursor::at(student, student_side, tile.batch, group, kGroups, columns);
    const int count = columns.has(0) ? rows_between(group, cut.rows, kGroups) : 0;

    Acc best[kWidth];
#pragma unroll
    for (int j = 0; j < kWidth; ++j) best[j] = -INFINITY;
    typename HeadLoss::Sums sums[kWidth];
    int rows = 0;
    auto add = [&](const uint32_t* s, const uint32_t* t) {
      add_run(s, t, [&](int j) -> Acc& { return best[j]; }, [&](int j) -> auto& { return sums[j]; });
      if constexpr (kHead) {
        if (++rows % HeadLoss::kMaxFactors == 0) {
#pragma unroll
          for (int j = 0; j < kWidth; ++j) loss.fold(sums[j]);
        }
      }
    };
    if constexpr (kHead && kWide) {
      walk_rows(*ring, count, student, s_at.data, s_at.stride, teacher, t_at.data, t_at.stride, add);
    } else {
      for_rows<kRows, kWide && C::kFrequent>(count, [&](auto checked, int left) {
        uint32_t t[kRows][C::kWords], s[kRows][C::kWords];
        load_rows<kReuse, decltype(checked)::value>(teacher, t, t_at, left, columns);
        if constexpr (kHead) load_rows<kReuse, decltype(checked)::value>(student, s, s_at, left, columns);
#pragma unroll
        for (int u = 0; u < kRows; ++u) add(s[u], t[u]);
        t_at = t_at.plus(kRows);
        s_at = s_at.plus(kRows);
      });
    }

    const uint32_t first = columns.first - tile.location;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) best_of[group][first + j * kStep] = best[j];
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
      for (int j = 0; j < kWidth; ++j) total += score[first + j * kStep] * loss.value(sums[j]);
    }
    return total;
  }

  // Rows are locations: `lanes` lanes walk along the channels of one, 32 / lanes locations to a warp at a
  // time.
  template <bool kWide>
  FRS_DEVICE Acc channel_major() const {
    constexpr int kRows = kRowsAtOnce<HeadLoss, C, kWide>;
    const uint32_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const uint32_t lanes = cut.lanes(), step = kWarps * cut.rows_per_step();
    const uint32_t end = tile.location + kTile, row_end = end < cut.rows ? end : cut.rows;
    Acc total = 0;
    for (uint32_t base = tile.location + warp * cut.rows_per_step(); base < end; base += kRows * step) {
      const uint32_t row = base + (lane >> cut.lanes_log2);
      const int left = rows_between(row, row_end, step);
      Acc best[kRows];
#pragma unroll
      for (int u = 0; u < kRows; ++u) best[u] = -INFINITY;
      typename HeadLoss::Sums sums[kRows];
      int runs = 0;
      for (uint32_t column = 0; column < cut.columns; column += lanes * kWidth) {
        const auto columns =
            tiles::columns_of<kWide ? 1 : kWarp>(column, cut.columns, lane & (lanes - 1), kWidth);
        uint32_t t[kRows][C::kWords], s[kRows][C::kWords];
        load_rows<kReuse, true>(teacher, t, Cursor::at(teacher, teacher_side, tile.batch, row, step, columns),
                                left, columns);
        if constexpr (kHead) {
          load_rows<kReuse, true>(
              student, s, Cursor::at(student, student_side, tile.batch, row, step, columns), left, columns);
        }
#pragma unroll
        for (int u = 0; u < kRows; ++u) {
          add_run(s[u], t[u], [&](int) -> Acc& { return best[u]; }, [&](int) -> auto& { return sums[u]; });
        }
        if constexpr (kHead) {
          if (++runs % (HeadLoss::kMaxFactors / kWidth) == 0) {
#pragma unroll
            for (int u = 0; u < kRows; ++u) loss.fold(sums[u]);
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kRows; ++u) {
        const uint32_t r = row + u * step;
        const Acc m = group_max(best[u], lanes);
        const Acc s = u < left ? sigmoid(m) : Acc(0);
        if constexpr (kHead) total += s * loss.value(sums[u]);
        if (r < end && (lane & (lanes - 1)) == 0) score[r - tile.location] = s;
      }
    }
    __syncthreads();
    return total;
  }

  FRS_DEVICE Acc run() const {
    if (cut.location_major) return cut.wide ? location_major<true>() : location_major<false>();
    return cut.wide ? channel_major<true>() : channel_major<false>();
  }
};

}  // namespace frs::cuda
