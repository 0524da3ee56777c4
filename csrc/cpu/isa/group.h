// The vectors that one turn of a loop over logits takes from each tensor: one, or two where both tensors are
// bfloat16. Two of those lie in 32 bits, so a shift and a mask make a vector of the even and one of the odd
// elements: half the instructions of widening the first and the second half of them, and of narrowing again.
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

template <int N, class T>
FRS_INLINE Group<typename Lane<T>::V, N> load_group(const T* p, Whole, float = 0.0f) {
  if constexpr (N == 1) {
    return {load(p)};
  } else {
    const Words pairs = read<Words>(p);
    return {bit_cast<Floats>(pairs << 16), bit_cast<Floats>(pairs & 0xffff0000)};
  }
}
template <int N, class T>
FRS_INLINE Group<typename Lane<T>::V, N> load_group(const T* p, Part part, float fill) {
  if constexpr (N == 1) {
    return {load(p, part, fill)};
  } else {
    T elements[N * FRS_LANES];
    for (T& element : elements) element.bits = bit_cast<uint32_t>(fill) >> 16;
    for (int i = 0; i < part.count; ++i) elements[i] = p[i];
    return load_group<N>(elements, Whole{});
  }
}

template <int N, class T, class V>
FRS_INLINE void put_group(T* p, Whole, const Group<V, N>& group, bool streamed) {
  if constexpr (N == 1) {
    put(p, Whole{}, group.v[0], streamed);
  } else {
    const Words even = round_to_bf16(group.v[0]) >> 16, odd = round_to_bf16(group.v[1]);
#if defined(__AVX2__) && !defined(__AVX512F__)
    const Words pairs = (Words)_mm256_blend_epi16((__m256i)even, (__m256i)odd, 0xaa);
#else
    const Words pairs = even | (odd & 0xffff0000);
#endif
    memcpy(p, &pairs, sizeof(pairs));
  }
}
template <int N, class T, class V>
FRS_INLINE void put_group(T* p, Part part, const Group<V, N>& group, bool streamed) {
  if constexpr (N == 1) {
    put(p, part, group.v[0], streamed);
  } else {
    T elements[N * FRS_LANES];
    put_group(elements, Whole{}, group, streamed);
    for (int i = 0; i < part.count; ++i) p[i] = elements[i];
  }
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
