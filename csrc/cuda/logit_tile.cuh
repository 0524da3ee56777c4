// A block's tile of logits, all channels of adjacent locations: their mask S = sigmoid(max_k T_k), and, in
// the single pass, their head term.
#pragma once

#include <type_traits>

#include "head.cuh"
#include "largest.cuh"
#include "term_tile.cuh"

namespace frs::cuda {

// One vector of student and teacher logits. Without a head term, student logits are neither loaded nor used.
template <class C>
struct LogitVectors {
  uint32_t s[C::kWords], t[C::kWords];
};

// The running maximum of the teacher's logits and the running head term of each location in a lane's vector:
// kWidth locations where columns are locations, else one.
template <class HeadLoss, class C, int kLocations>
struct LogitSums {
  using Acc = typename C::Acc;
  static constexpr bool kHasHead = !std::is_same_v<HeadLoss, NoHead<Acc>>;
  static constexpr uint32_t kMaxVectors = HeadLoss::kMaxFactors / (C::kWidth / kLocations);  // between folds

  Largest<C, kLocations> largest;
  typename HeadLoss::Sums sums[kLocations];
  uint32_t vectors = 0;

  FRS_DEVICE void add(const HeadLoss& loss, const C& student, const C& teacher,
                      const LogitVectors<C>& logits) {
    largest.add(teacher, logits.t);
    if constexpr (kHasHead) {
      Acc x[C::kWidth], y[C::kWidth];
      teacher.unpack(logits.t, y);
      student.unpack(logits.s, x);
#pragma unroll
      for (int j = 0; j < C::kWidth; ++j) loss.add(x[j], y[j], 1, sums[kLocations == 1 ? 0 : j]);
      if (++vectors % kMaxVectors == 0) {
#pragma unroll
        for (int i = 0; i < kLocations; ++i) loss.fold(sums[i]);
      }
    }
  }
};

// run() writes `mask` and returns this thread's share of the tile's sum of S * head term (0 if NoHead).
template <class HeadLoss, class C, class LogitRing>
struct LogitTile {
  using Acc = typename C::Acc;
  static constexpr int kWidth = C::kWidth;
  static constexpr bool kHasHead = !std::is_same_v<HeadLoss, NoHead<Acc>>;
  static constexpr uint32_t kTile = tiles::mask_tile_size(kWidth);
  // Location-major, kLanes lanes take a row of the tile, and kGroups groups of lanes take the rows in turn.
  static constexpr uint32_t kLanes = kTile / kWidth, kGroups = kThreads / kLanes;

  const HeadLoss& loss;
  const C &student, &teacher;
  const Matrices &student_logits, &teacher_logits;
  const Tiling& tiling;
  const tiles::MaskTile tile;
  Acc* mask;  // [kTile] in shared memory: S from tile.location on, 0 beyond the last location
  Acc (*group_largest)[kTile];  // [kGroups] in shared memory, scratch
  LogitRing& ring;

  FRS_DEVICE Acc run() const {
    FRS_CHECK(tile.batch < tiling.batch && tile.location < tiling.locations());
    if (tiling.location_major) return tiling.vectorized ? location_major<true>() : location_major<false>();
    return tiling.vectorized ? channel_major_vectors() : channel_major_elements();
  }

 private:
  using Stage = typename LogitRing::Stage;

  FRS_DEVICE void fetch(const Stage& stage, const char* s, const char* t) const {
    stage.fetch(0, teacher, t);
    if constexpr (kHasHead) stage.fetch(1, student, s);
  }
  FRS_DEVICE void read(const Stage& stage, LogitVectors<C>& logits) const {
    stage.read(0, teacher, logits.t);
    if constexpr (kHasHead) stage.read(1, student, logits.s);
  }
  template <uint32_t kStep>
  FRS_DEVICE void load(const char* s, const char* t, const Columns<kStep>& columns,
                       LogitVectors<C>& logits) const {
    load_elements(teacher, logits.t, t, columns);
    if constexpr (kHasHead) load_elements(student, logits.s, s, columns);
  }

  // A thread takes kWidth locations, and every kGroups-th channel of them.
  template <bool kVectorized>
  FRS_DEVICE Acc location_major() const {
    constexpr uint32_t kStep = kVectorized ? 1 : kLanes;
    const uint32_t group = threadIdx.x / kLanes;
    const auto columns =
        tiles::columns_of<kStep>(tile.location, tiling.columns, threadIdx.x % kLanes, kWidth);
    Cursor t_at = Cursor::at(teacher, teacher_logits, tile.batch, group, kGroups, columns);
    Cursor s_at = Cursor::at(student, student_logits, tile.batch, group, kGroups, columns);
    LogitSums<HeadLoss, C, kWidth> sums;
    uint32_t rows = columns.has(0) ? tiles::rows_between(group, tiling.rows, kGroups) : 0;
    if constexpr (kVectorized) {
      auto fetch_row = [&](const Stage& stage) {
        fetch(stage, s_at.data, t_at.data);
        t_at.advance();
        s_at.advance();
      };
      ring.pipeline(rows, fetch_row, [&](const Stage& stage) {
        LogitVectors<C> logits;
        read(stage, logits);
        sums.add(loss, student, teacher, logits);
      });
    } else {
      constexpr int kRows = kHasHead ? 1 : 4;  // the arithmetic of the head term leaves no registers for more
#pragma unroll 1
      for (; rows >= kRows; rows -= kRows) add_rows<kRows>(sums, s_at, t_at, columns);
#pragma unroll 1
      for (; rows > 0; --rows) add_rows<1>(sums, s_at, t_at, columns);
    }
    const uint32_t first = columns.first - tile.location;
    reduce_groups<kStep>(sums.largest, group, first);
    Acc total = 0;
    if constexpr (kHasHead) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) total += mask[first + j * kStep] * loss.value(sums.sums[j]);
    }
    return total;
  }

  // All loads of kRows rows are in flight before the first of them is used.
  template <int kRows, uint32_t kStep>
  FRS_DEVICE void add_rows(LogitSums<HeadLoss, C, kWidth>& sums, Cursor& s_at, Cursor& t_at,
                           const Columns<kStep>& columns) const {
    LogitVectors<C> logits[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      load(s_at.data, t_at.data, columns, logits[i]);
      t_at.advance();
      s_at.advance();
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) sums.add(loss, student, teacher, logits[i]);
  }

  // From the maxima of every group's channels to the mask.
  template <uint32_t kStep>
  FRS_DEVICE void reduce_groups(const Largest<C, kWidth>& largest, uint32_t group, uint32_t first) const {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) group_largest[group][first + j * kStep] = largest.of(j);
    __syncthreads();
    if (threadIdx.x < kTile) {
      Acc m = group_largest[0][threadIdx.x];
#pragma unroll
      for (uint32_t g = 1; g < kGroups; ++g) m = nan_max(m, group_largest[g][threadIdx.x]);
      mask[threadIdx.x] = tile.location + threadIdx.x < tiling.columns ? sigmoid(m) : Acc(0);
    }
    __syncthreads();
  }

  using Walk = tiles::LocationWalk;

  // Channel-major, with 16-byte accesses: the copies of a vector are issued several steps ahead of its use.
  FRS_DEVICE Acc channel_major_vectors() const {
    const Walk walk(tiling, tile.location, threadIdx.x, kWidth, true);
    Walk::Position ahead = walk.start, here = walk.start;
    const Columns<1> columns{walk.start.column, tiling.columns};
    Cursor t_row = Cursor::at(teacher, teacher_logits, tile.batch, ahead.row, walk.row_step, columns);
    Cursor s_row = Cursor::at(student, student_logits, tile.batch, ahead.row, walk.row_step, columns);
    LogitSums<HeadLoss, C, 1> sums;
    Acc total = 0;
    auto fetch_next = [&](const Stage& stage) {
      const uint32_t offset = ahead.column - walk.start.column;
      if (walk.inside(ahead)) {
        fetch(stage, s_row.data + offset * student.bytes(), t_row.data + offset * teacher.bytes());
      }
      if (walk.advance(ahead)) t_row.advance(), s_row.advance();
    };
    ring.pipeline(walk.steps(), fetch_next, [&](const Stage& stage) {
      if (walk.inside(here)) {
        LogitVectors<C> logits;
        read(stage, logits);
        sums.add(loss, student, teacher, logits);
      }
      const uint32_t row = here.row;
      if (walk.advance(here)) total += finish_location(walk, row, sums);
    });
    finish_mask();
    return total;
  }

  // Channel-major, where rows are not aligned to 16 bytes.
  FRS_DEVICE Acc channel_major_elements() const {
    const Walk walk(tiling, tile.location, threadIdx.x, kWidth, false);
    Walk::Position here = walk.start;
    const Columns<kWarp> columns{walk.start.column, tiling.columns};
    Cursor t_row = Cursor::at(teacher, teacher_logits, tile.batch, here.row, walk.row_step, columns);
    Cursor s_row = Cursor::at(student, student_logits, tile.batch, here.row, walk.row_step, columns);
    LogitSums<HeadLoss, C, 1> sums;
    Acc total = 0;
#pragma unroll 1
    for (uint32_t steps = walk.steps(); steps > 0; --steps) {
      if (walk.inside(here)) {
        const uint32_t offset = here.column - walk.start.column;
        LogitVectors<C> logits;
        load(s_row.data + offset * student.bytes(), t_row.data + offset * teacher.bytes(),
             Columns<kWarp>{here.column, tiling.columns}, logits);
        sums.add(loss, student, teacher, logits);
      }
      const uint32_t row = here.row;
      if (!walk.advance(here)) continue;
      total += finish_location(walk, row, sums);
      t_row.advance(), s_row.advance();
    }
    finish_mask();
    return total;
  }

  // Reduces over the lanes of a location, resets `sums`, and returns this lane's share of S * head term.
  FRS_DEVICE Acc finish_location(const Walk& walk, uint32_t row, LogitSums<HeadLoss, C, 1>& sums) const {
    const uint32_t lanes = tiling.lanes();
    Acc s = group_max(sums.largest.of(0), lanes), share = 0;
    if constexpr (kHasHead) {
      s = row < walk.row_end ? sigmoid(s) : Acc(0);
      share = s * loss.value(sums.sums[0]);
    }
    if ((threadIdx.x & (lanes - 1)) == 0) mask[row - tile.location] = s;
    sums = {};
    return share;
  }

  // Without a head term, `mask` still holds the largest logits; their sigmoids are computed here, one per
  // thread. Beyond the last location the largest logit is -Inf, and S is 0.
  FRS_DEVICE void finish_mask() const {
    __syncthreads();
    if constexpr (!kHasHead) {
      if (threadIdx.x < kTile) mask[threadIdx.x] = sigmoid(mask[threadIdx.x]);
      __syncthreads();
    }
  }
};

}  // namespace frs::cuda
