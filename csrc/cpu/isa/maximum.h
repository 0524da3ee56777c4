// Maxima that propagate NaN, which the maximum instructions of x86 do not.
#pragma once

#include "../settings.h"
#include "../vec.h"
#include "group.h"

namespace frs::cpu::FRS_ISA {
namespace {

template <class S>
FRS_INLINE typename VectorOf<S>::V minus_infinity() {
  return typename VectorOf<S>::V{} - static_cast<S>(INFINITY);
}

// The larger one, or NaN if either is NaN: `larger` returns a NaN of `maximum`, its second operand.
template <class V>
FRS_INLINE V max_or_nan(V maximum, V x) {
  return x == x ? larger(x, maximum) : x;
}

// maxima[l] = max(maxima[l], max over R rows of t[r, l]); t [R, locations] with row stride `stride`.
template <int R, class T, class S>
FRS_INLINE void update_max_of_rows(const T* t, int64_t stride, int64_t locations, S* maxima) {
  const int64_t ahead = R * settings().prefetch_rows;
  for_vectors<T>(0, locations, [&](int64_t i, auto extent) {
    typename VectorOf<T>::V m = load(maxima + i, extent);
    for (int r = 0; r < R; ++r) {
      prefetch_all(t + (ahead + r) * stride + i);
      m = max_or_nan(m, load(t + r * stride + i, extent));
    }
    store(maxima + i, extent, m);
  });
}

// maxima[l] = max(maxima[l], max over c of t[c, l]); t [channels, locations] with row stride `stride`.
template <class T, class S>
void update_max(const T* t, int64_t stride, int64_t channels, int64_t locations, S* maxima) {
  int64_t c = 0;
  for (; c + 8 <= channels; c += 8) update_max_of_rows<8>(t + c * stride, stride, locations, maxima);
  for (; c < channels; ++c) update_max_of_rows<1>(t + c * stride, stride, locations, maxima);
}

// The maximum of the lanes.
FRS_INLINE double max_of_lanes(double v) { return v; }
FRS_INLINE float max_of_lanes(Floats v) {
  float lanes[FRS_LANES];
  store(lanes, v);
  float m = lanes[0];
  for (float lane : lanes) m = max_or_nan(m, lane);
  return m;
}

// The maximum of t[0..channels).
template <class T>
FRS_INLINE auto maximum(const T* t, int64_t channels) {
  using V = typename VectorOf<T>::V;
  using S = typename VectorOf<T>::Scalar;
  constexpr int N = kVectorsPerLoad<T, T>;
  V m[N];
  for (V& each : m) each = minus_infinity<S>();
  const int64_t ahead = settings().prefetch_mask_channels_last;
  for_steps<N * VectorOf<T>::kLanes>(0, channels, [&](int64_t i, auto extent) {
    prefetch_all(t + i + ahead);
    const auto group = group_of(load_raw<N>(t + i, extent, -INFINITY));
    for (int j = 0; j < N; ++j) m[j] = max_or_nan(m[j], group.v[j]);
  });
  for (int j = 1; j < N; ++j) m[0] = max_or_nan(m[0], m[j]);
  return max_of_lanes(m[0]);
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
