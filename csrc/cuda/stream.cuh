// One pass over a term: student and teacher in, loss and gradient out, with the weight of each location.
#pragma once

#include <cstring>
#include <type_traits>

#include "ring.cuh"
#include "table.h"

namespace frs::cuda {

using tiles::Columns, tiles::Cut, tiles::kWarp, tiles::Piece;

// A lane's place in a tensor: its first column in some row, and how far on the row `step` rows later is.
struct Cursor {
  char* data;
  int64_t stride;

  template <class C, uint32_t kStep>
  static FRS_DEVICE Cursor at(const C& codec, const Side& side, uint32_t batch, uint32_t row, uint32_t step,
                              const Columns<kStep>& columns) {
    return {static_cast<char*>(side.data) +
                (batch * side.batch_stride + row * side.row_stride + columns.first) * codec.bytes(),
            step * side.row_stride * codec.bytes()};
  }
  FRS_DEVICE Cursor plus(int rows) const { return {data + rows * stride, stride}; }
};

// A narrow run, element by element. A wide one comes through the ring.
template <class C, uint32_t kStep>
FRS_DEVICE void load_narrow(const C& codec, uint32_t* words, const char* p, const Columns<kStep>& columns) {
  codec.neutral(words);
#pragma unroll
  for (int j = 0; j < C::kWidth; ++j) {
    if (columns.has(j)) codec.load_one(words, j, p + j * kStep * codec.bytes());
  }
}

template <class C, uint32_t kStep>
FRS_DEVICE void store_row(const C& codec, char* p, const Columns<kStep>& columns, const typename C::Acc* v) {
  if constexpr (kStep == 1) {
    codec.store_run(p, v);
  } else {
#pragma unroll
    for (int j = 0; j < C::kWidth; ++j) {
      if (columns.has(j)) codec.store_one(p + j * kStep * codec.bytes(), v[j]);
    }
  }
}

// How many of the rows row, row + step, ... lie below row_end.
FRS_DEVICE uint32_t rows_between(uint32_t row, uint32_t row_end, uint32_t step) {
  return row < row_end ? (row_end - row + step - 1) / step : 0;
}

// factors[0..count) of the lane's columns; 1 where there are none (nullptr), 0 outside. With wide columns
// they are aligned like the runs.
template <int kWidth, class Acc, uint32_t kStep>
FRS_DEVICE void load_factors(Acc* v, const Acc* factors, const Columns<kStep>& columns) {
#pragma unroll
  for (int j = 0; j < kWidth; ++j) v[j] = columns.has(j) ? 1 : 0;
  if (factors == nullptr) return;
  if constexpr (kStep == 1) {
    constexpr int kQuad = 16 / sizeof(Acc);
#pragma unroll
    for (int j = 0; j < kWidth; j += kQuad) {
      if (columns.has(0)) memcpy(v + j, __builtin_assume_aligned(factors + columns.first + j, 16), 16);
    }
  } else {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      if (columns.has(j)) v[j] = factors[columns.first + j * kStep];
    }
  }
}

// What a warp sums up over its piece: location_weight * loss, times `scale`, which the gradients it writes
// (if kGradient, where the term has any) carry too. `location_weight` and `channel_weight` (nullptr: 1) are
// those of the piece's entry.
template <bool kGradient, bool kLocationMajor, bool kWide, class Loss, class C>
FRS_DEVICE typename C::Acc stream(Ring<C, 2>& ring, const Loss& loss, const C& student, const C& teacher,
                                  const Term& term, const Cut& cut, const Piece& piece,
                                  const typename C::Acc* location_weight,
                                  const typename C::Acc* channel_weight, typename C::Acc scale) {
  using Acc = typename C::Acc;
  constexpr int kWidth = C::kWidth;
  const uint32_t lane = threadIdx.x % kWarp, step = kWide ? cut.rows_per_step() : 1;
  const auto columns = tiles::columns_of<kWide ? 1 : kWarp>(piece.column, cut.columns,
                                                            kWide ? lane & (cut.lanes() - 1) : lane, kWidth);
  if (!columns.has(0)) return 0;

  Acc column_factor[kWidth];
  if (kLocationMajor || Loss::kChannelWeighted) {
    load_factors<kWidth>(column_factor, kLocationMajor ? location_weight : channel_weight, columns);
  }
  if constexpr (kLocationMajor) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) column_factor[j] *= scale;
  }

  uint32_t row = piece.row_begin + (kWide ? lane >> cut.lanes_log2 : 0);
  Cursor s_at = Cursor::at(student, term.student, piece.batch, row, step, columns);
  Cursor t_at = Cursor::at(teacher, term.teacher, piece.batch, row, step, columns);
  Cursor g_at = Cursor::at(student, term.gradient, piece.batch, row, step, columns);
  const Acc* row_factors = kLocationMajor ? channel_weight : location_weight;
  const bool stores = kGradient && term.gradient.data != nullptr;
  Acc total = 0;
  typename Loss::Sums sums[kLocationMajor ? kWidth : 1];

  auto one_row = [&](const uint32_t* s, const uint32_t* t) {
    Acc row_factor = 1;
    if ((!kLocationMajor || Loss::kChannelWeighted) && row_factors != nullptr) row_factor = row_factors[row];
    if constexpr (!kLocationMajor) {
      row_factor *= scale;
      sums[0] = {};
    }
    Acc x[kWidth], y[kWidth];
    student.unpack(s, x);
    teacher.unpack(t, y);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const Acc channel_factor = kLocationMajor ? row_factor : column_factor[j];
      const Acc derivative = loss.add(x[j], y[j], channel_factor, sums[kLocationMajor ? j : 0]);
      x[j] = derivative * (kLocationMajor ? column_factor[j] : row_factor);
    }
    if constexpr (!kLocationMajor) total += row_factor * loss.value(sums[0]);
    if (stores) store_row(student, g_at.data, columns, x);
    row += step;
    g_at = g_at.plus(1);
  };
  uint32_t s[C::kWords], t[C::kWords];
  if constexpr (kWide) {
    auto fetch = [&](uint32_t stage) {
      ring.fetch(stage, 0, student, s_at.data);
      ring.fetch(stage, 1, teacher, t_at.data);
      s_at = s_at.plus(1);
      t_at = t_at.plus(1);
    };
    ring.pipeline(rows_between(row, piece.row_end, step), fetch, [&](uint32_t stage) {
      ring.read(stage, 0, student, s);
      ring.read(stage, 1, teacher, t);
      one_row(s, t);
    });
  } else {
#pragma unroll 1
    while (row < piece.row_end) {
      load_narrow(student, s, s_at.data, columns);
      load_narrow(teacher, t, t_at.data, columns);
      one_row(s, t);
      s_at = s_at.plus(1);
      t_at = t_at.plus(1);
    }
  }
  if constexpr (kLocationMajor) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) total += column_factor[j] * loss.value(sums[j]);
  }
  return total;
}

template <bool kGradient, class Loss, class C>
FRS_DEVICE typename C::Acc stream(Ring<C, 2>& ring, const Loss& loss, const C& student, const C& teacher,
                                  const Term& term, const Cut& cut, const Piece& piece,
                                  const typename C::Acc* location_weight,
                                  const typename C::Acc* channel_weight, typename C::Acc scale) {
  auto with = [&](auto location_major, auto wide) {
    return stream<kGradient, location_major.value, wide.value>(ring, loss, student, teacher, term, cut, piece,
                                                               location_weight, channel_weight, scale);
  };
  using std::true_type, std::false_type;
  if (cut.location_major) return cut.wide ? with(true_type(), true_type()) : with(true_type(), false_type());
  return cut.wide ? with(false_type(), true_type()) : with(false_type(), false_type());
}

// Zeros, where a level has no weight at all.
template <bool kWide, class C>
FRS_DEVICE void clear_gradient(const C& codec, const Term& term, const Cut& cut, const Piece& piece) {
  const typename C::Acc zeros[C::kWidth] = {};
  const uint32_t lane = threadIdx.x % kWarp;
  const auto columns =
      tiles::columns_of<kWide ? 1 : kWarp>(piece.column, cut.columns, lane & (cut.lanes() - 1), C::kWidth);
  if (!columns.has(0)) return;
  const uint32_t step = cut.rows_per_step();
  for (uint32_t row = piece.row_begin + (lane >> cut.lanes_log2); row < piece.row_end; row += step) {
    store_row(codec, Cursor::at(codec, term.gradient, piece.batch, row, step, columns).data, columns, zeros);
  }
}

}  // namespace frs::cuda
