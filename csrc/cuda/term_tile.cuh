// One warp tile of a term: loads student and teacher, sums up the loss, and stores the gradient.
#pragma once

#include <cstring>

#include "ring.cuh"
#include "table.h"

namespace frs::cuda {

using tiles::Columns, tiles::kWarp, tiles::Tiling, tiles::WarpTile;

// Where a lane's vector of one row is in a tensor, and the distance to its vector `row_step` rows below.
struct Cursor {
  char* data;
  int64_t stride;  // in bytes

  template <class C, uint32_t kStep>
  static FRS_DEVICE Cursor at(const C& codec, const Matrices& matrices, uint32_t batch, uint32_t row,
                              uint32_t row_step, const Columns<kStep>& columns) {
    return {static_cast<char*>(matrices.data) +
                (batch * matrices.batch_stride + row * matrices.row_stride + columns.first) * codec.bytes(),
            row_step * matrices.row_stride * codec.bytes()};
  }
  FRS_DEVICE void advance() { data += stride; }
};

// Loads a vector element by element. Vectors with 16-byte accesses come through the ring instead.
template <class C, uint32_t kStep>
FRS_DEVICE void load_elements(const C& codec, uint32_t* words, const char* p, const Columns<kStep>& columns) {
  codec.neutral(words);
#pragma unroll
  for (int j = 0; j < C::kWidth; ++j) {
    if (columns.has(j)) codec.load_element(words, j, p + j * kStep * codec.bytes());
  }
}

template <class C, uint32_t kStep>
FRS_DEVICE void store(const C& codec, char* p, const Columns<kStep>& columns, const typename C::Acc* v) {
  if constexpr (kStep == 1) {
    codec.store_vector(p, v);
  } else {
#pragma unroll
    for (int j = 0; j < C::kWidth; ++j) {
      if (columns.has(j)) codec.store_element(p + j * kStep * codec.bytes(), v[j]);
    }
  }
}

// factors[0..count) of the lane's columns: 1 where `factors` is nullptr, 0 in columns that do not exist. With
// 16-byte accesses, the factors are aligned like the vectors.
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

// Adds a vector of student (x) and teacher (y) to the sums, one per column where columns are locations, else
// one. Overwrites x with the gradient.
template <bool kLocationMajor, class ElementLoss, class Acc, int kWidth>
FRS_DEVICE void add_vector(const ElementLoss& loss, Acc (&x)[kWidth], const Acc (&y)[kWidth], Acc row_factor,
                           const Acc (&column_factors)[kWidth], typename ElementLoss::Sums* sums) {
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const Acc channel_weight = kLocationMajor ? row_factor : column_factors[j];
    const Acc derivative = loss.add(x[j], y[j], channel_weight, sums[kLocationMajor ? j : 0]);
    x[j] = derivative * (kLocationMajor ? column_factors[j] : row_factor);
  }
}

// A warp tile and its operands.
template <class C>
struct TermTile {
  using Acc = typename C::Acc;

  const C &student, &teacher;
  const TermMatrices& matrices;
  const Tiling& tiling;
  const WarpTile& tile;
  const Acc* mask;            // [locations] of the tile's image
  const Acc* channel_weight;  // [channels] of the tile's image; nullptr: 1
  Acc factor;                 // multiplies the sum and the gradient
};

// Calls add(student's words, teacher's words) for the lane's vectors of `row`, row + row_step and so on until
// the tile ends. `add` moves `row` on.
template <bool kVectorized, class C, uint32_t kStep, class Add>
FRS_DEVICE void for_each_row(Ring<C, 2>& ring, const TermTile<C>& operands, const Columns<kStep>& columns,
                             const uint32_t& row, uint32_t row_step, const Add& add) {
  const C &student = operands.student, &teacher = operands.teacher;
  const WarpTile& tile = operands.tile;
  Cursor s_at = Cursor::at(student, operands.matrices.student, tile.batch, row, row_step, columns);
  Cursor t_at = Cursor::at(teacher, operands.matrices.teacher, tile.batch, row, row_step, columns);
  uint32_t s[C::kWords], t[C::kWords];
  if constexpr (kVectorized) {
    using Stage = typename Ring<C, 2>::Stage;
    auto fetch = [&](const Stage& stage) {
      stage.fetch(0, student, s_at.data);
      stage.fetch(1, teacher, t_at.data);
      s_at.advance();
      t_at.advance();
    };
    ring.pipeline(tiles::rows_between(row, tile.row_end, row_step), fetch, [&](const Stage& stage) {
      stage.read(0, student, s);
      stage.read(1, teacher, t);
      add(s, t);
    });
  } else {
#pragma unroll 1
    while (row < tile.row_end) {
      load_elements(student, s, s_at.data, columns);
      load_elements(teacher, t, t_at.data, columns);
      add(s, t);
      s_at.advance();
      t_at.advance();
    }
  }
}

// Where columns are locations, the column factors are factor * S and the row factors are c; where columns are
// channels, the other way round.
template <bool kGrad, bool kLocationMajor, bool kVectorized, class ElementLoss, class C>
FRS_DEVICE typename C::Acc term_sum(Ring<C, 2>& ring, const ElementLoss& loss, const TermTile<C>& operands) {
  using Acc = typename C::Acc;
  constexpr int kWidth = C::kWidth;
  const Matrices& grad = operands.matrices.grad;
  const Tiling& tiling = operands.tiling;
  const WarpTile& tile = operands.tile;
  const uint32_t lane = threadIdx.x % kWarp, row_step = kVectorized ? tiling.rows_per_step() : 1;
  const auto columns = tiles::columns_of<kVectorized ? 1 : kWarp>(
      tile.column, tiling.columns, kVectorized ? lane & (tiling.lanes() - 1) : lane, kWidth);
  FRS_CHECK(tile.batch < tiling.batch && tile.row_end <= tiling.rows);
  if (!columns.has(0)) return 0;

  Acc column_factors[kWidth];
  if (kLocationMajor || ElementLoss::kChannelWeighted) {
    load_factors<kWidth>(column_factors, kLocationMajor ? operands.mask : operands.channel_weight, columns);
  }
  if constexpr (kLocationMajor) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) column_factors[j] *= operands.factor;
  }
  const Acc* row_factors = kLocationMajor ? operands.channel_weight : operands.mask;

  uint32_t row = tile.row_begin + (kVectorized ? lane >> tiling.lanes_log2 : 0);
  Cursor grad_at = Cursor::at(operands.student, grad, tile.batch, row, row_step, columns);
  const bool stores = kGrad && grad.data != nullptr;
  Acc total = 0;
  typename ElementLoss::Sums sums[kLocationMajor ? kWidth : 1];
  auto add_row = [&](const uint32_t* s, const uint32_t* t) {
    FRS_CHECK(row < tile.row_end);
    Acc row_factor = 1;
    if ((!kLocationMajor || ElementLoss::kChannelWeighted) && row_factors != nullptr)
      row_factor = row_factors[row];
    if constexpr (!kLocationMajor) row_factor *= operands.factor, sums[0] = {};
    Acc x[kWidth], y[kWidth];
    operands.student.unpack(s, x);
    operands.teacher.unpack(t, y);
    add_vector<kLocationMajor>(loss, x, y, row_factor, column_factors, sums);
    if constexpr (!kLocationMajor) total += row_factor * loss.value(sums[0]);
    if (stores) store(operands.student, grad_at.data, columns, x);
    row += row_step;
    grad_at.advance();
  };
  for_each_row<kVectorized>(ring, operands, columns, row, row_step, add_row);
  if constexpr (kLocationMajor) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) total += column_factors[j] * loss.value(sums[j]);
  }
  return total;
}

// This lane's share of the sum of factor * S * loss. Where the gradient is wanted, and if kGrad, it is
// stored: factor * S * (the derivative of the loss).
template <bool kGrad, class ElementLoss, class C>
FRS_DEVICE typename C::Acc term_sum(Ring<C, 2>& ring, const ElementLoss& loss, const TermTile<C>& operands) {
  const Tiling& tiling = operands.tiling;
  if (tiling.location_major) {
    return tiling.vectorized ? term_sum<kGrad, true, true>(ring, loss, operands)
                             : term_sum<kGrad, true, false>(ring, loss, operands);
  }
  return tiling.vectorized ? term_sum<kGrad, false, true>(ring, loss, operands)
                           : term_sum<kGrad, false, false>(ring, loss, operands);
}

// Stores a gradient of 0, on a level where the normalizer is 0.
template <bool kVectorized, class C>
FRS_DEVICE void clear_grad(const C& codec, const TermMatrices& matrices, const Tiling& tiling,
                           const WarpTile& tile) {
  const typename C::Acc zeros[C::kWidth] = {};
  const uint32_t lane = threadIdx.x % kWarp;
  const auto columns = tiles::columns_of<kVectorized ? 1 : kWarp>(tile.column, tiling.columns,
                                                                  lane & (tiling.lanes() - 1), C::kWidth);
  FRS_CHECK(tile.batch < tiling.batch && tile.row_end <= tiling.rows);
  if (!columns.has(0)) return;
  const uint32_t row_step = tiling.rows_per_step();
  for (uint32_t row = tile.row_begin + (lane >> tiling.lanes_log2); row < tile.row_end; row += row_step) {
    store(codec, Cursor::at(codec, matrices.grad, tile.batch, row, row_step, columns).data, columns, zeros);
  }
}

}  // namespace frs::cuda
