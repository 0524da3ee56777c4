// A block's tile of locations with all their channels: the mask S = sigmoid(max_k T_k), and, in the single
// pass, the head term of the same logits.
#pragma once

#include <type_traits>

#include "head.cuh"
#include "reduce.cuh"
#include "term_tile.cuh"

namespace frs::cuda {

// A block's work: `mask` (shared memory, one tile long) gets S of the locations from tile.location on, 0
// beyond the last one. Returns this thread's share of the tile's S * head term, if HeadLoss is not NoHead.
template <class HeadLoss, class C, class Pipe>
struct MaskTile {
  using Acc = typename C::Acc;
  static constexpr int kWidth = C::kWidth;
  static constexpr bool kHasHead = !std::is_same_v<HeadLoss, NoHead<Acc>>;
  static constexpr uint32_t kTile = tiles::mask_tile_size(kWidth), kLanes = kTile / kWidth,
                            kGroups = kThreads / kLanes;

  const HeadLoss& loss;
  const C &student, &teacher;
  const Matrices &student_logits, &teacher_logits;
  const Tiling& tiling;
  const tiles::MaskTile tile;
  Acc* mask;
  Acc (*group_largest)[kTile];  // shared memory: kGroups rows
  Pipe& pipe;

  FRS_DEVICE void fetch(uint32_t stage, const char* s, const char* t) const {
    pipe.fetch(stage, 0, teacher, t);
    if constexpr (kHasHead) pipe.fetch(stage, 1, student, s);
  }

  // A run of locations from the ring (wide), or element by element (narrow).
  template <uint32_t kStep>
  FRS_DEVICE void load(uint32_t stage, const char* s, const char* t, const Columns<kStep>& columns,
                       uint32_t* s_words, uint32_t* t_words) const {
    if constexpr (kStep == 1) {
      pipe.read(stage, 0, teacher, t_words);
      if constexpr (kHasHead) pipe.read(stage, 1, student, s_words);
    } else {
      load_elements(teacher, t_words, t, columns);
      if constexpr (kHasHead) load_elements(student, s_words, s, columns);
    }
  }

  // Rows are channels: 16 bytes of neighbouring locations to a lane, the channels dealt out to groups of
  // lanes.
  template <bool kVectorized>
  FRS_DEVICE Acc location_major() const {
    constexpr uint32_t kStep = kVectorized ? 1 : kLanes;
    const uint32_t group = threadIdx.x / kLanes;
    const auto columns =
        tiles::columns_of<kStep>(tile.location, tiling.columns, threadIdx.x % kLanes, kWidth);
    Cursor t_at = Cursor::at(teacher, teacher_logits, tile.batch, group, kGroups, columns);
    Cursor s_at = Cursor::at(student, student_logits, tile.batch, group, kGroups, columns);
    Acc best[kWidth];
#pragma unroll
    for (int j = 0; j < kWidth; ++j) best[j] = -INFINITY;
    typename HeadLoss::Sums sums[kWidth];
    int rows = 0;

    auto advance = [&] {
      t_at.advance();
      s_at.advance();
    };
    auto use = [&](const uint32_t* s_words, const uint32_t* t_words) {
      Acc x[kWidth], y[kWidth];
      teacher.unpack(t_words, y);
      if constexpr (kHasHead) student.unpack(s_words, x);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        best[j] = nan_max(best[j], y[j]);
        if constexpr (kHasHead) loss.add(x[j], y[j], 1, sums[j]);
      }
      if constexpr (kHasHead) {
        if (++rows % HeadLoss::kMaxFactors == 0) {
#pragma unroll
          for (int j = 0; j < kWidth; ++j) loss.fold(sums[j]);
        }
      }
    };
    const uint32_t count = columns.has(0) ? tiles::rows_between(group, tiling.rows, kGroups) : 0;
    if constexpr (kVectorized) {
      auto fetch_row = [&](uint32_t stage) {
        fetch(stage, s_at.data, t_at.data);
        advance();
      };
      Pipe::pipeline(count, fetch_row, [&](uint32_t stage) {
        uint32_t s_words[C::kWords], t_words[C::kWords];
        load(stage, s_at.data, t_at.data, columns, s_words, t_words);
        use(s_words, t_words);
      });
    } else {
      auto take_rows = [&](auto number) {  // all their loads are in flight before the first is used
        uint32_t s_words[number.value][C::kWords], t_words[number.value][C::kWords];
#pragma unroll
        for (int i = 0; i < number.value; ++i) {
          load(0, s_at.data, t_at.data, columns, s_words[i], t_words[i]);
          advance();
        }
#pragma unroll
        for (int i = 0; i < number.value; ++i) use(s_words[i], t_words[i]);
      };
      constexpr int kTogether = kHasHead ? 1 : 4;  // beside the arithmetic of the head there are no registers
      uint32_t left = count;
#pragma unroll 1
      for (; left >= kTogether; left -= kTogether) take_rows(std::integral_constant<int, kTogether>());
#pragma unroll 1
      for (; left > 0; --left) take_rows(std::integral_constant<int, 1>());
    }

    const uint32_t first = columns.first - tile.location;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) group_largest[group][first + j * kStep] = best[j];
    __syncthreads();
    if (threadIdx.x < kTile) {
      Acc m = group_largest[0][threadIdx.x];
#pragma unroll
      for (uint32_t g = 1; g < kGroups; ++g) m = nan_max(m, group_largest[g][threadIdx.x]);
      mask[threadIdx.x] = tile.location + threadIdx.x < tiling.columns ? sigmoid(m) : Acc(0);
    }
    __syncthreads();
    Acc total = 0;
    if constexpr (kHasHead) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) total += mask[first + j * kStep] * loss.value(sums[j]);
    }
    return total;
  }

  // A lane's way through a tile: the runs of a location one after another, then those of the location a step
  // later.
  struct Walk {
    uint32_t row, column;

    FRS_DEVICE bool advance(const Walk& start, uint32_t end, uint32_t stride,
                            uint32_t step) {  // true: a new row
      column += stride;
      if (column - start.column < end) return false;
      column = start.column;
      row += step;
      return true;
    }
  };

  // Rows are locations: `lanes` lanes walk along the channels of one, 32 / lanes locations to a warp at a
  // time.
  template <bool kVectorized>
  FRS_DEVICE Acc channel_major() const {
    constexpr uint32_t kStep = kVectorized ? 1 : kWarp;
    const uint32_t lane = threadIdx.x % kWarp, lanes = tiling.lanes(), step = kWarps * tiling.rows_per_step();
    const uint32_t base = tile.location + threadIdx.x / kWarp * tiling.rows_per_step(),
                   end = tile.location + kTile;
    const uint32_t row_end = end < tiling.rows ? end : tiling.rows, stride = lanes * kWidth;
    const uint32_t runs = tiling.columns == 0 ? 1 : tiles::ceil_div(tiling.columns, stride);  // of a location
    auto columns_at = [&](const Walk& at) { return Columns<kStep>{at.column, tiling.columns}; };
    auto has = [&](const Walk& at) { return at.row < row_end && at.column < tiling.columns; };

    const Walk start{base + (lane >> tiling.lanes_log2), kVectorized ? (lane & (lanes - 1)) * kWidth : lane};
    Walk ahead = start, here = start;
    // Where `start` is in the row that is loaded next: of `ahead` if the copies are, else of `here`.
    Cursor t_row = Cursor::at(teacher, teacher_logits, tile.batch, start.row, step, columns_at(start));
    Cursor s_row = Cursor::at(student, student_logits, tile.batch, start.row, step, columns_at(start));
    auto in_row = [&](const C& codec, const Cursor& at, const Walk& walk) -> const char* {
      return at.data + (walk.column - start.column) * codec.bytes();
    };
    auto advance = [&](Walk& walk, bool loads) {  // true: to a new row
      if (!walk.advance(start, runs * stride, stride, step)) return false;
      if (loads) t_row.advance(), s_row.advance();
      return true;
    };

    Acc best = -INFINITY, total = 0;
    typename HeadLoss::Sums sums;
    uint32_t taken = 0;
    auto fetch_run = [&](uint32_t stage) {
      if constexpr (kVectorized) {
        if (has(ahead)) fetch(stage, in_row(student, s_row, ahead), in_row(teacher, t_row, ahead));
        advance(ahead, true);
      }
    };
    auto use_run = [&](uint32_t stage) {
      if (has(here)) {
        uint32_t s_words[C::kWords], t_words[C::kWords];
        Acc x[kWidth], y[kWidth];
        load(stage, in_row(student, s_row, here), in_row(teacher, t_row, here), columns_at(here), s_words,
             t_words);
        teacher.unpack(t_words, y);
        if constexpr (kHasHead) student.unpack(s_words, x);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) {
          best = nan_max(best, y[j]);
          if constexpr (kHasHead) loss.add(x[j], y[j], 1, sums);
        }
        if constexpr (kHasHead) {
          if (++taken % (HeadLoss::kMaxFactors / kWidth) == 0) loss.fold(sums);
        }
      }
      const uint32_t row = here.row;
      if (!advance(here, !kVectorized)) return;
      Acc s = group_max(best, lanes);  // all lanes of the warp come to the end of a row together
      if constexpr (kHasHead) {
        s = row < row_end ? sigmoid(s) : Acc(0);
        total += s * loss.value(sums);
      }
      if (row < end && (lane & (lanes - 1)) == 0) mask[row - tile.location] = s;
      best = -INFINITY;
      sums = {};
      taken = 0;
    };
    Pipe::pipeline(tiles::rows_between(base, end, step) * runs, fetch_run, use_run);
    __syncthreads();
    if constexpr (!kHasHead) {  // of the whole tile at once; beyond the last location it is that of -Inf, 0
      if (threadIdx.x < kTile) mask[threadIdx.x] = sigmoid(mask[threadIdx.x]);
      __syncthreads();
    }
    return total;
  }

  FRS_DEVICE Acc run() const {
    if (tiling.location_major) return tiling.vectorized ? location_major<true>() : location_major<false>();
    return tiling.vectorized ? channel_major<true>() : channel_major<false>();
  }
};

}  // namespace frs::cuda
