// Groups: the vectors that one load of logits gives, two where both tensors are bfloat16, else one. A 32-bit
// word holds two bfloat16, which a shift and a mask deinterleave into a vector of the even and one of the odd
// elements. Sign operations work on the packed words, for two vectors at once.
#pragma once

#include "../vec.h"

namespace frs::cpu::FRS_ISA {
namespace {

template <class Ts, class Tt>
constexpr int kVectorsPerLoad = std::is_same_v<Ts, BFloat16> && std::is_same_v<Tt, BFloat16> ? 2 : 1;

template <class V, int N>
struct Group {
  V v[N];
};

// The position of element i in its deinterleaved group: the even elements come first, then the odd ones.
template <int N, int64_t kLanes>
constexpr int64_t deinterleaved_index(int64_t i) {
  const int64_t within = i % (N * kLanes);
  return i - within + within % N * kLanes + within / N;
}

// Loads a raw group: a vector of floats (or one double), or words of two bfloat16 each.
template <int N, class T>
FRS_INLINE auto load_raw(const T* p, FullVector, float = 0.0f) {
  if constexpr (N == 1)
    return load(p);
  else
    return load_unaligned<Words>(p);
}
template <int N, class T>
FRS_INLINE auto load_raw(const T* p, PartialVector extent, float fill) {
  if constexpr (N == 1) {
    return load(p, extent, fill);
  } else {
#if defined(__AVX512F__)
    const Words fill_pairs = Words{} + (bit_cast<uint32_t>(fill) >> 16) * 0x10001;
    return (Words)_mm512_mask_loadu_epi16((__m512i)fill_pairs, (1u << extent.count) - 1, p);
#else
    T elements[N * FRS_LANES];
    for (T& element : elements) element.bits = bit_cast<uint32_t>(fill) >> 16;
    for (int i = 0; i < extent.count; ++i) elements[i] = p[i];
    return load_unaligned<Words>(elements);
#endif
  }
}

template <class V>
FRS_INLINE Group<V, 1> group_of(V raw) {
  return {raw};
}
FRS_INLINE Group<Floats, 2> group_of(Words raw) {
  return {bit_cast<Floats>(raw << 16), bit_cast<Floats>(raw & 0xffff0000)};
}

template <class V>
FRS_INLINE Group<V, 1> negative_abs_of(V raw) {
  return {negative_abs(raw)};
}
FRS_INLINE Group<Floats, 2> negative_abs_of(Words raw) { return group_of(raw | 0x80008000); }

template <class V>
FRS_INLINE Group<V, 1> abs_of(V raw) {
  return {-negative_abs(raw)};
}
FRS_INLINE Group<Floats, 2> abs_of(Words raw) { return group_of(raw & 0x7fff7fff); }

template <class V>
FRS_INLINE Group<V, 1> signs_differ_of(V s, V t) {
  return {signs_differ(s, t)};
}
FRS_INLINE Group<Floats, 2> signs_differ_of(Words s, Words t) {  // only the sign bits mean anything
  return {bit_cast<Floats>((s ^ t) << 16), bit_cast<Floats>(s ^ t)};
}

// Stores the gradients `group`, negated where the raw group `sign` is negative. Pairs of bfloat16 are rounded
// to nearest, ties away from zero: cheaper than ties to even, and products of sigmoids are ties only by
// chance. The low halves of NaNs must be 0, as those of bfloat16 logits are and canonical_nan in head.cpp
// makes those of the mask: others would round to Inf or 0.
template <class T, class Extent, class V>
FRS_INLINE void store_with_sign(T* p, Extent extent, const Group<V, 1>& group, V sign, bool non_temporal) {
  store_gradient(p, extent, flip_by_sign(group.v[0], sign), non_temporal);
}
FRS_INLINE Words pack_with_sign(const Group<Floats, 2>& group, Words sign) {
  const Words even = (bit_cast<Words>(group.v[0]) + 0x8000) >> 16, odd = bit_cast<Words>(group.v[1]) + 0x8000;
#if defined(__AVX2__) && !defined(__AVX512F__)
  const Words packed = (Words)_mm256_blend_epi16((__m256i)even, (__m256i)odd, 0xaa);
#else
  const Words packed = even | (odd & 0xffff0000);
#endif
  return packed ^ (sign & 0x80008000);
}
template <class T>
FRS_INLINE void store_with_sign(T* p, FullVector, const Group<Floats, 2>& group, Words sign,
                                bool non_temporal) {
  const Words packed = pack_with_sign(group, sign);
  store_gradient(reinterpret_cast<float*>(p), FullVector{}, bit_cast<Floats>(packed), non_temporal);
}
template <class T>
FRS_INLINE void store_with_sign(T* p, PartialVector extent, const Group<Floats, 2>& group, Words sign, bool) {
  const Words packed = pack_with_sign(group, sign);
#if defined(__AVX512F__)
  _mm512_mask_storeu_epi16(p, (1u << extent.count) - 1, (__m512i)packed);
#else
  memcpy(p, &packed, extent.count * sizeof(T));
#endif
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
