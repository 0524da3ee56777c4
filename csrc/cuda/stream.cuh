// One pass over a term: student and teacher in, loss and gradient out, with the weight of each location.
#pragma once

#include "table.h"
#include "vec.cuh"

namespace frs::cuda {

using tiles::Columns, tiles::Cut, tiles::kWarp, tiles::Piece;

// Runs of the rows row, row + step, ... below row_end. Nothing is used before all loads have been issued.
template <Reuse kReuse, class C, int kRows>
FRS_DEVICE void load_rows(const C& codec, uint32_t (&words)[kRows][C::kWords], const Side& side, uint32_t batch,
                          uint32_t row, uint32_t step, uint32_t row_end, const Columns& columns) {
  const char* p = static_cast<const char*>(side.data) +
                  (batch * side.batch_stride + row * side.row_stride + columns.first) * codec.bytes();
  const int64_t stride = step * side.row_stride * codec.bytes();
#pragma unroll
  for (int u = 0; u < kRows; ++u) codec.neutral(words[u]);
  if (columns.wide) {
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      if (columns.first < columns.count && row + u * step < row_end) {
        codec.template load_run<kReuse>(words[u], p + u * stride);
      }
    }
  } else {
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
#pragma unroll
      for (int j = 0; j < C::kWidth; ++j) {
        if (columns.first + j * columns.step < columns.count && row + u * step < row_end) {
          codec.template load_one<kReuse>(words[u], j, p + u * stride + j * columns.step * codec.bytes());
        }
      }
    }
  }
}

template <class C>
FRS_DEVICE void store_row(const C& codec, const Side& side, uint32_t batch, uint32_t row, const Columns& columns,
                          const typename C::Acc* v) {
  char* p = static_cast<char*>(side.data) +
            (batch * side.batch_stride + row * side.row_stride + columns.first) * codec.bytes();
  if (columns.wide) {
    if (columns.first < columns.count) codec.store_run(p, v);
  } else {
#pragma unroll
    for (int j = 0; j < C::kWidth; ++j) {
      if (columns.first + j * columns.step < columns.count) {
        codec.store_one(p + j * columns.step * codec.bytes(), v[j]);
      }
    }
  }
}

// factors[0..count) of the lane's columns; 1 where there are none (nullptr), 0 outside. With wide columns they are
// aligned like the runs.
template <int kWidth, class Acc>
FRS_DEVICE void load_factors(Acc* v, const Acc* factors, const Columns& columns) {
  if (factors != nullptr && columns.wide && columns.first < columns.count) {
    constexpr int kQuad = 16 / sizeof(Acc);
#pragma unroll
    for (int j = 0; j < kWidth; j += kQuad) {
      const auto quad = *reinterpret_cast<const uint4*>(factors + columns.first + j);
      memcpy(v + j, &quad, sizeof(quad));
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const uint32_t column = columns.first + j * columns.step;
    v[j] = column >= columns.count ? Acc(0) : factors == nullptr ? Acc(1) : factors[column];
  }
}

// What a warp sums up over its piece: location_weight * loss, times `scale`, which the gradients it writes (where
// the term has any) carry too. `location_weight` and `channel_weight` (nullptr: 1) are those of the piece's entry.
template <class Loss, bool kLocationMajor, class C>
FRS_DEVICE typename C::Acc stream(const Loss& loss, const C& student, const C& teacher, const Term& term,
                                  const Cut& cut, const Piece& piece, const typename C::Acc* location_weight,
                                  const typename C::Acc* channel_weight, typename C::Acc scale) {
  using Acc = typename C::Acc;
  constexpr int kWidth = C::kWidth, kRows = Loss::template kRows<C>;
  const uint32_t lane = threadIdx.x % kWarp, step = cut.rows_per_step();
  const Columns columns =
      tiles::columns_of(piece.column, cut.columns, lane & (cut.lanes() - 1), cut.lanes(), kWidth, cut.wide);
  const Acc* row_factors = kLocationMajor ? channel_weight : location_weight;

  Acc column_factor[kWidth];
  if (kLocationMajor || Loss::kChannelWeighted) {
    load_factors<kWidth>(column_factor, kLocationMajor ? location_weight : channel_weight, columns);
  }
  if constexpr (kLocationMajor) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) column_factor[j] *= scale;
  }

  Acc total = 0;
  typename Loss::Sums sums[kLocationMajor ? kWidth : 1];
  for (uint32_t row = piece.row_begin + (lane >> cut.lanes_log2); row < piece.row_end; row += kRows * step) {
    uint32_t s[kRows][C::kWords], t[kRows][C::kWords];
    load_rows<Reuse::never>(student, s, term.student, piece.batch, row, step, piece.row_end, columns);
    load_rows<Reuse::never>(teacher, t, term.teacher, piece.batch, row, step, piece.row_end, columns);
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const uint32_t r = row + u * step;
      const bool inside = r < piece.row_end;
      Acc row_factor = inside ? 1 : 0;
      if ((!kLocationMajor || Loss::kChannelWeighted) && inside && row_factors != nullptr) row_factor = row_factors[r];
      if constexpr (!kLocationMajor) row_factor *= scale;

      Acc x[kWidth], y[kWidth];
      student.unpack(s[u], x);
      teacher.unpack(t[u], y);
      if constexpr (!kLocationMajor) sums[0] = {};
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        const Acc derivative =
            loss.add(x[j], y[j], kLocationMajor ? row_factor : column_factor[j], sums[kLocationMajor ? j : 0]);
        x[j] = derivative * (kLocationMajor ? column_factor[j] : row_factor);
      }
      if constexpr (!kLocationMajor) total += row_factor * loss.value(sums[0]);
      if (term.gradient.data != nullptr && inside) store_row(student, term.gradient, piece.batch, r, columns, x);
    }
  }
  if constexpr (kLocationMajor) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) total += column_factor[j] * loss.value(sums[j]);
  }
  return total;
}

// Zeros, where a level has no weight at all.
template <class C>
FRS_DEVICE void clear_gradient(const C& codec, const Term& term, const Cut& cut, const Piece& piece) {
  const typename C::Acc zeros[C::kWidth] = {};
  const uint32_t lane = threadIdx.x % kWarp;
  const Columns columns =
      tiles::columns_of(piece.column, cut.columns, lane & (cut.lanes() - 1), cut.lanes(), C::kWidth, cut.wide);
  for (uint32_t row = piece.row_begin + (lane >> cut.lanes_log2); row < piece.row_end; row += cut.rows_per_step()) {
    store_row(codec, term.gradient, piece.batch, row, columns, zeros);
  }
}

}  // namespace frs::cuda
