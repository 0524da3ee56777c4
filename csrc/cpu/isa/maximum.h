// Maxima that keep NaN: the vector maximum of every instruction set drops it.
#pragma once

#include "../vec.h"
#include "group.h"

namespace frs::cpu::FRS_ISA {
namespace {

template <class S>
FRS_INLINE typename Lane<S>::V lowest() {
  return typename Lane<S>::V{} - static_cast<S>(INFINITY);
}

// The larger one, or NaN if one of them is: `larger` keeps a NaN in `maximum`.
template <class V>
FRS_INLINE V raised(V maximum, V x) {
  return x == x ? larger(x, maximum) : x;
}

// s[l] <- max(s[l], T[0..R, l]);  T [R, locations], rows `stride` apart.
template <int R, class T, class S>
FRS_INLINE void raise_rows(const T* t, int64_t stride, int64_t locations, S* s) {
  for_vectors<T>(0, locations, [&](int64_t i, auto part) {
    typename Lane<T>::V m = load(s + i, part);
    for (int r = 0; r < R; ++r) {
      fetch(t + (R + r) * stride + i);
      m = raised(m, load(t + r * stride + i, part));
    }
    store(s + i, part, m);
  });
}

// s[l] <- max(s[l], T[:, l]);  T [channels, locations], rows `stride` apart.
template <class T, class S>
void raise_by_rows(const T* t, int64_t stride, int64_t channels, int64_t locations, S* s) {
  int64_t c = 0;
  for (; c + 8 <= channels; c += 8) raise_rows<8>(t + c * stride, stride, locations, s);
  for (; c < channels; ++c) raise_rows<1>(t + c * stride, stride, locations, s);
}

// The maximum over the lanes.
FRS_INLINE double across(double v) { return v; }
FRS_INLINE float across(Floats v) {
  float lanes[FRS_LANES];
  store(lanes, v);
  float m = lanes[0];
  for (float lane : lanes) m = raised(m, lane);
  return m;
}

// max over t[0..channels).
template <class T>
FRS_INLINE auto maximum(const T* t, int64_t channels) {
  using V = typename Lane<T>::V;
  using S = typename Lane<T>::Scalar;
  constexpr int N = kTogether<T, T>;
  V m[N];
  for (V& each : m) each = lowest<S>();
  for_steps<N * Lane<T>::kCount>(0, channels, [&](int64_t i, auto part) {
    const auto group = group_of(load_raw<N>(t + i, part, -INFINITY));
    for (int j = 0; j < N; ++j) m[j] = raised(m[j], group.v[j]);
  });
  for (int j = 1; j < N; ++j) m[0] = raised(m[0], m[j]);
  return across(m[0]);
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
