// The vectors that one turn of a loop over logits takes from each tensor: one, or two where both tensors are
// bfloat16. Two of those lie in 32 bits, so a shift and a mask make a vector of the even and one of the odd
// elements, and what concerns only their signs is done before they are apart: about half the instructions.
#pragma once

#include "../vec.h"

namespace frs::cpu::FRS_ISA {
namespace {

template <class Ts, class Tt>
constexpr int kTogether = std::is_same_v<Ts, BFloat16> && std::is_same_v<Tt, BFloat16> ? 2 : 1;

template <class V, int N>
struct Group {
  V v[N];
};

// Where element i lies once groups are taken apart: even elements first, then the odd ones.
template <int N, int64_t kCount>
constexpr int64_t place_of(int64_t i) {
  const int64_t within = i % (N * kCount);
  return i - within + within % N * kCount + within / N;
}

// A group as it lies in memory: a vector of one type of float, or words of two bfloat16.
template <int N, class T>
FRS_INLINE auto load_raw(const T* p, Whole, float = 0.0f) {
  if constexpr (N == 1)
    return load(p);
  else
    return read<Words>(p);
}
template <int N, class T>
FRS_INLINE auto load_raw(const T* p, Part part, float fill) {
  if constexpr (N == 1) {
    return load(p, part, fill);
  } else {
#if defined(__AVX512F__)
    const Words filled = Words{} + (bit_cast<uint32_t>(fill) >> 16) * 0x10001;
    return (Words)_mm512_mask_loadu_epi16((__m512i)filled, (1u << part.count) - 1, p);
#else
    T elements[N * FRS_LANES];
    for (T& element : elements) element.bits = bit_cast<uint32_t>(fill) >> 16;
    for (int i = 0; i < part.count; ++i) elements[i] = p[i];
    return read<Words>(elements);
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
FRS_INLINE Group<V, 1> apart_of(V s, V t) {
  return {apart(s, t)};
}
FRS_INLINE Group<Floats, 2> apart_of(Words s, Words t) {  // only their signs count
  return {bit_cast<Floats>((s ^ t) << 16), bit_cast<Floats>(s ^ t)};
}

// Stores `group`, negated where `sign`, a raw group, is negative. bfloat16 are rounded to nearest; of what
// lies halfway, which products of sigmoids do only by chance, the larger one is taken. A NaN of arithmetic
// stays one.
template <class T, class Extent, class V>
FRS_INLINE void put_flipped(T* p, Extent part, const Group<V, 1>& group, V sign, bool streamed) {
  put(p, part, flip_by_sign(group.v[0], sign), streamed);
}
FRS_INLINE Words flipped_pairs(const Group<Floats, 2>& group, Words sign) {
  const Words even = (bit_cast<Words>(group.v[0]) + 0x8000) >> 16, odd = bit_cast<Words>(group.v[1]) + 0x8000;
#if defined(__AVX2__) && !defined(__AVX512F__)
  const Words pairs = (Words)_mm256_blend_epi16((__m256i)even, (__m256i)odd, 0xaa);
#else
  const Words pairs = even | (odd & 0xffff0000);
#endif
  return pairs ^ (sign & 0x80008000);
}
template <class T>
FRS_INLINE void put_flipped(T* p, Whole, const Group<Floats, 2>& group, Words sign, bool streamed) {
  const Words pairs = flipped_pairs(group, sign);
  put(reinterpret_cast<float*>(p), Whole{}, bit_cast<Floats>(pairs), streamed);
}
template <class T>
FRS_INLINE void put_flipped(T* p, Part part, const Group<Floats, 2>& group, Words sign, bool) {
  const Words pairs = flipped_pairs(group, sign);
#if defined(__AVX512F__)
  _mm512_mask_storeu_epi16(p, (1u << part.count) - 1, (__m512i)pairs);
#else
  memcpy(p, &pairs, part.count * sizeof(T));
#endif
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
