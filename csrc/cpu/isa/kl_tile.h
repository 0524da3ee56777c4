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
  alignas(64) S statistics[kKLStatistics * kMaxKLWidth];
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

FRS_INLINE double largest(double v) { return v; }
FRS_INLINE float largest(Floats v) {  // of the lanes, none of which is NaN
  float lanes[FRS_LANES];
  store(lanes, v);
  for (int width = FRS_LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = larger(lanes[i], lanes[i + width]);
  return lanes[0];
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
    for (int64_t d = 0; d < width; ++d, x += stride) {
      V m = lowest<S>();
      for_vectors<T>(0, bins, [&](int64_t i, auto extent) {
        *tile = load(x + i, extent, -INFINITY);
        m = larger(*tile, m);
        tile += 2;
      });
      maxima[d] = largest(m);
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

FRS_INLINE constexpr int count_of(FullVector, int lanes) { return lanes; }
FRS_INLINE constexpr int count_of(PartialVector extent, int) { return extent.count; }

template <>
struct Form<KLForm::transposed> {
  template <class T, class V, class S>
  static void load_logits(const T* x, int64_t stride, int64_t width, int64_t bins, V* tile, S* maxima) {
    constexpr int kLanes = VectorOf<T>::kLanes;
    for (int64_t d = 0; d < width; d += kLanes) {
      V m = lowest<S>();
      for_vectors<T>(0, bins, [&](int64_t bin, auto extent) {
        V square[kLanes];
        unrolled<kLanes>([&](int i) {  // a distribution past the last one is the last one again
          square[i] = load(x + std::min(d + i, width - 1) * stride + bin, extent);
        });
        transpose(square);
        unrolled<kLanes>([&](int i) {
          if (i >= count_of(extent, kLanes)) return;
          tile[2 * i] = square[i];
          m = larger(square[i], m);
        });
        tile += 2 * count_of(extent, kLanes);
      });
      store(maxima + d, m);
    }
  }

  template <class T, class V, class S>
  static void store_gradients(T* g, int64_t stride, int64_t width, int64_t bins, const LogitVectors<V>* tile,
                              const S* ratio, const S* slope, bool) {
    constexpr int kLanes = VectorOf<T>::kLanes;
    for (int64_t d = 0; d < width; d += kLanes) {
      const V column_ratio = load(ratio + d), column_slope = load(slope + d);
      for_vectors<T>(0, bins, [&](int64_t bin, auto extent) {
        V square[kLanes] = {};
        unrolled<kLanes>([&](int i) {
          if (i < count_of(extent, kLanes)) square[i] = gradient_of(tile[i], column_ratio, column_slope);
        });
        transpose(square);
        tile += count_of(extent, kLanes);
        unrolled<kLanes>([&](int i) {
          if (i < width - d) store(g + (d + i) * stride + bin, extent, square[i]);
        });
      });
    }
  }
};

}  // namespace
}  // namespace frs::cpu::FRS_ISA
