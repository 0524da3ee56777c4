// The tile of the KL kernels: logits of some distributions in scratch memory, loaded from and stored to
// tensors in each KLForm.
#pragma once

#include <algorithm>
#include <limits>

#include "../isa.h"
#include "../vec.h"
#include "softmax.h"
#include "transpose.h"

namespace frs::cpu::FRS_ISA {
namespace {

// Vectors of logits, the student's and the teacher's by turns. As columns and transposed, the bins of the
// first kLanes distributions come first, then those of the next; as rows, one distribution after another.
template <class S>
struct KLTile {
  using V = typename VectorOf<S>::V;
  static constexpr int64_t kLanes = VectorOf<S>::kLanes;
  alignas(64) LogitVectors<V> logits[kl_tile_pairs(std::is_same_v<S, double>) / kLanes];
  alignas(64) S statistics[kKLStatistics * kMaxKLWidth], unused[kKLStatistics * kMaxKLWidth];
};

// How x [width, bins] of one tensor is loaded into every other vector of a tile, with the maxima [width],
// and how a gradient of the same shape is stored. Maxima are never NaN: a NaN logit shows in the sums.
template <KLForm kForm>
struct Form;

// Below every logit but -Inf. As the maximum of bins that are all -Inf, it makes their exponentials 0.
template <class S>
FRS_INLINE typename VectorOf<S>::V lowest() {
  return typename VectorOf<S>::V{} + std::numeric_limits<S>::lowest();
}

template <>
struct Form<KLForm::columns> {
  template <class T, class V, class S>
  static void load_logits(const T* x, int64_t stride, int64_t width, int64_t bins, V* tile, S* maxima) {
    for_vectors<S>(0, width, [&](int64_t i, auto) { store(maxima + i, lowest<S>()); });
    constexpr int64_t kRows = 4;
    int64_t bin = 0;
    for (; bin + kRows <= bins; bin += kRows)
      load_rows<kRows>(x + bin * stride, stride, width, bins, tile + 2 * bin, maxima);
    for (; bin < bins; ++bin) load_rows<1>(x + bin * stride, stride, width, bins, tile + 2 * bin, maxima);
  }
  template <int kRows, class T, class V, class S>
  FRS_INLINE static void load_rows(const T* x, int64_t stride, int64_t width, int64_t bins, V* tile,
                                   S* maxima) {
    for_vectors<T>(0, width, [&](int64_t i, auto extent) {
      V m = load(maxima + i);
      for (int r = 0; r < kRows; ++r) {
        const V row = load(x + r * stride + i, extent);
        tile[2 * r] = row;
        m = larger(row, m);
      }
      store(maxima + i, m);
      tile += 2 * bins;
    });
  }

  template <class T, class V, class S>
  static void store_gradients(T* g, int64_t stride, int64_t width, int64_t bins, const LogitVectors<V>* tile,
                              const S* ratio, const S* slope, bool non_temporal) {
    constexpr int64_t kRows = 4;
    int64_t bin = 0;
    for (; bin + kRows <= bins; bin += kRows)
      store_rows<kRows>(g + bin * stride, stride, width, bins, tile + bin, ratio, slope, non_temporal);
    for (; bin < bins; ++bin)
      store_rows<1>(g + bin * stride, stride, width, bins, tile + bin, ratio, slope, non_temporal);
  }
  template <int kRows, class T, class V, class S>
  FRS_INLINE static void store_rows(T* g, int64_t stride, int64_t width, int64_t bins,
                                    const LogitVectors<V>* tile, const S* ratio, const S* slope,
                                    bool non_temporal) {
    for_vectors<T>(0, width, [&](int64_t i, auto extent) {
      const V column_ratio = load(ratio + i), column_slope = load(slope + i);
      for (int r = 0; r < kRows; ++r)
        store_gradient(g + r * stride + i, extent, gradient_of(tile[r], column_ratio, column_slope),
                       non_temporal);
      tile += bins;
    });
  }
};

template <>
struct Form<KLForm::rows> {
  template <class T, class V, class S>
  static void load_logits(const T* x, int64_t stride, int64_t width, int64_t bins, V* tile, S* maxima) {
    constexpr int kLanes = VectorOf<T>::kLanes;
    for (int64_t d = 0; d < width; d += kLanes) {
      V maxima_of_lanes[kLanes] = {};
      const int count = static_cast<int>(std::min<int64_t>(kLanes, width - d));
      for (int row = 0; row < count; ++row, x += stride) {
        V m = lowest<S>();
        for_vectors<T>(0, bins, [&](int64_t i, auto extent) {
          *tile = load(x + i, extent, -INFINITY);
          m = larger(*tile, m);
          tile += 2;
        });
        maxima_of_lanes[row] = m;
      }
      store(maxima + d, reduced(maxima_of_lanes, [](V v, V w) FRS_INLINE_LAMBDA { return larger(v, w); }));
    }
  }

  template <class T, class V, class S>
  static void store_gradients(T* g, int64_t stride, int64_t width, int64_t bins, const LogitVectors<V>* tile,
                              const S* ratio, const S* slope, bool non_temporal) {
    for (int64_t d = 0; d < width; ++d, g += stride) {
      const V row_ratio = V{} + ratio[d], row_slope = V{} + slope[d];
      for_vectors<T>(0, bins, [&](int64_t i, auto extent) {
        store_gradient(g + i, extent, gradient_of(*tile++, row_ratio, row_slope), non_temporal);
      });
    }
  }
};

// x[0], x[stride], ... in the lanes of a vector.
template <class T>
FRS_INLINE Floats load_column(const T* const (&rows)[FRS_LANES], int64_t bin) {
  T lanes[FRS_LANES];
  unrolled<FRS_LANES>([&](int i) FRS_INLINE_LAMBDA { lanes[i] = rows[i][bin]; });
  return load(lanes);
}
template <int... kLane>
FRS_INLINE Floats load_lanes(const float* const (&rows)[FRS_LANES], int64_t bin,
                             std::integer_sequence<int, kLane...>) {
  return Floats{rows[kLane][bin]...};
}
FRS_INLINE Floats load_column(const float* const (&rows)[FRS_LANES], int64_t bin) {
  return load_lanes(rows, bin, std::make_integer_sequence<int, FRS_LANES>());
}
FRS_INLINE double load_column(const double* const (&rows)[1], int64_t bin) { return rows[0][bin]; }

// A square of bins and distributions at once, and the bins that are left one by one, unless they are many.
template <>
struct Form<KLForm::transposed> {
  template <class T>
  static constexpr int kLanes = VectorOf<T>::kLanes;
  template <class T>
  static constexpr int kFewBins = kLanes<T> / 4;

  template <class T, class V, class S>
  static void load_logits(const T* x, int64_t stride, int64_t width, int64_t bins, V* tile, S* maxima) {
    for (int64_t d = 0; d < width; d += kLanes<T>) {
      const T* rows[kLanes<T>];
      for (int i = 0; i < kLanes<T>; ++i)  // a distribution past the last one is the last one again
        rows[i] = x + std::min(d + i, width - 1) * stride;
      V m = lowest<S>();
      int64_t bin = 0;
      auto load_square = [&](auto extent, int count) FRS_INLINE_LAMBDA {
        V square[kLanes<T>];
        unrolled<kLanes<T>>([&](int i) FRS_INLINE_LAMBDA { square[i] = load(rows[i] + bin, extent); });
        transpose(square);
        unrolled<kLanes<T>>([&](int i) FRS_INLINE_LAMBDA {
          if (i >= count) return;
          tile[2 * i] = square[i];
          m = larger(square[i], m);
        });
        tile += 2 * count;
        bin += count;
      };
      while (bin + kLanes<T> <= bins) load_square(FullVector{}, kLanes<T>);
      const int left = static_cast<int>(bins - bin);
      if (left > kFewBins<T>) load_square(PartialVector{left}, left);
      for (; bin < bins; ++bin, tile += 2) {
        *tile = load_column(rows, bin);
        m = larger(*tile, m);
      }
      store(maxima + d, m);
    }
  }

  template <class T, class V, class S>
  static void store_gradients(T* g, int64_t stride, int64_t width, int64_t bins, const LogitVectors<V>* tile,
                              const S* ratio, const S* slope, bool) {
    for (int64_t d = 0; d < width; d += kLanes<T>, g += kLanes<T> * stride) {
      const V column_ratio = load(ratio + d), column_slope = load(slope + d);
      const int count = static_cast<int>(std::min<int64_t>(kLanes<T>, width - d));
      int64_t bin = 0;
      auto store_square = [&](auto extent, int bins_of_square) FRS_INLINE_LAMBDA {
        V square[kLanes<T>] = {};
        unrolled<kLanes<T>>([&](int i) FRS_INLINE_LAMBDA {
          if (i < bins_of_square) square[i] = gradient_of(tile[i], column_ratio, column_slope);
        });
        transpose(square);
        unrolled<kLanes<T>>([&](int i) FRS_INLINE_LAMBDA {
          if (i < count) store(g + i * stride + bin, extent, square[i]);
        });
        tile += bins_of_square;
        bin += bins_of_square;
      };
      while (bin + kLanes<T> <= bins) store_square(FullVector{}, kLanes<T>);
      const int left = static_cast<int>(bins - bin);
      if (left > kFewBins<T>) store_square(PartialVector{left}, left);
      for (; bin < bins; ++bin, ++tile) {
        T lanes[kLanes<T>];
        store(lanes, gradient_of(*tile, column_ratio, column_slope));
        for (int i = 0; i < count; ++i) g[i * stride + bin] = lanes[i];
      }
    }
  }
};

}  // namespace
}  // namespace frs::cpu::FRS_ISA
