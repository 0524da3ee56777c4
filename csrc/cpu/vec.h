// Vector loads and stores for each element type, prefetches, and the loops over vectors.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "floats.h"
#include "frs/contract.h"

namespace frs {

// Element types in memory.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

namespace cpu::FRS_ISA {
namespace {

// The vector type V that holds elements of type T, and its lanes of type Scalar. float64 kernels are scalar:
// their vector is one double.
template <class T>
struct VectorOf {
  using V = Floats;
  using Scalar = float;
  static constexpr int kLanes = FRS_LANES;
};
template <>
struct VectorOf<double> {
  using V = double;
  using Scalar = double;
  static constexpr int kLanes = 1;
};

template <class To>
FRS_INLINE To load_unaligned(const void* p) {
  To to;
  memcpy(&to, p, sizeof(to));
  return to;
}

FRS_INLINE Floats load(const float* p) { return load_unaligned<Floats>(p); }
FRS_INLINE double load(const double* p) { return *p; }
// FRS_LANES 16-bit words, zero-extended. The intrinsics are one instruction, where GCC makes four of
// __builtin_convertvector.
FRS_INLINE Words load_zero_extended(const uint16_t* p) {
#if defined(__AVX512F__)
  return (Words)_mm512_maskz_cvtepu16_epi32(0xffff, load_unaligned<__m256i>(p));
#elif defined(__AVX2__)
  return (Words)_mm256_cvtepu16_epi32(load_unaligned<__m128i>(p));
#else
  return __builtin_convertvector(load_unaligned<Halves>(p), Words);
#endif
}
FRS_INLINE Floats load(const BFloat16* p) { return bit_cast<Floats>(load_zero_extended(&p->bits) << 16); }
FRS_INLINE Floats load(const Half* p) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(0xffff, load_unaligned<__m256i>(p));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(load_unaligned<__m128i>(p));
#else
  // The exponent bias differs by 112. The product with 2^112 also normalizes subnormals; Inf and NaN get all
  // exponent bits set instead.
  const Words h = load_zero_extended(&p->bits);
  const Words magnitude = (h & 0x7fff) << 13;
  const Words finite = bit_cast<Words>(bit_cast<Floats>(magnitude) * 0x1p112f);
  return bit_cast<Floats>((magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : finite) | (h & 0x8000) << 16);
#endif
}

FRS_INLINE void store(float* p, Floats v) { memcpy(p, &v, sizeof(v)); }
FRS_INLINE void store(double* p, double v) { *p = v; }
FRS_INLINE void store(BFloat16* p, Floats v) {  // rounds to nearest, ties to even; every NaN becomes quiet
  const Words bits = bit_cast<Words>(v == v ? v : Floats{} + NAN);
  const Words bf16 = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
#if defined(__AVX512F__)
  const __m256i h = _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)bf16);
#elif defined(__AVX2__)
  const __m256i pairs = _mm256_packus_epi32((__m256i)bf16, (__m256i)bf16);
  const __m128i h = _mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0x08));
#else
  const Halves h = __builtin_convertvector(bf16, Halves);
#endif
  memcpy(p, &h, sizeof(h));
}
FRS_INLINE void store(Half* p, Floats v) {
#if defined(__AVX512F__)
  const __m256i h = _mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
  const __m128i h = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
#else
  const Words bits = bit_cast<Words>(v);
  const Words magnitude = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
  // Rounds to nearest, ties to even; 0xc8000000 subtracts 112 from the exponent.
  const Words normal = (magnitude + 0xc8000fff + (magnitude >> 13 & 1)) >> 13;
  const Words subnormal = bit_cast<Words>(bit_cast<Floats>(magnitude) + 0.5f) - 0x3f000000;
  const Words special = magnitude > 0x7f800000 ? Words{} + 0x7e00 : Words{} + 0x7c00;
  const Words finite = magnitude < 0x38800000 ? subnormal : normal;
  const Halves h = __builtin_convertvector((magnitude >= 0x47800000 ? special : finite) | sign, Halves);
#endif
  memcpy(p, &h, sizeof(h));
}

// A non-temporal store of float32 (or of packed bfloat16), for gradients larger than the caches: it saves
// reading each line before it is overwritten. p must be aligned to 32 bytes, and non_temporal_fence must end
// a series of them. Other types, and targets without the instruction, get a plain store.
template <class T, class V>
FRS_INLINE void store_non_temporal(T* p, V v) {
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) {
    float lanes[FRS_LANES];
    store(lanes, v);
    for (int i = 0; i < FRS_LANES; i += 8)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(p + i), load_unaligned<__m256i>(lanes + i));
    return;
  }
#endif
  store(p, v);
}
FRS_INLINE void non_temporal_fence() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Software prefetch of the cache line at p; p may point anywhere, as a prefetch never faults. prefetch_all
// fills all caches. prefetch_nta is for data of a single use: it fills L1 only, so that L2 and L3 keep what
// is still to be read, such as the teacher's logits that the mask pass has read. Callers must be inlined: GCC
// drops the call of a function that only prefetches.
FRS_INLINE void prefetch_all(const void* p) { __builtin_prefetch(p, 0, 3); }
FRS_INLINE void prefetch_nta(const void* p) { __builtin_prefetch(p, 0, 0); }

// The extent of a load or store: a full vector, or its first `count` elements at the end of a row. The lanes
// past them are loaded as `fill` and not stored.
struct FullVector {};
struct PartialVector {
  int count;
};
FRS_INLINE Ints lane_mask(int count) {  // true in the first `count` lanes
  Ints index;
  for (int i = 0; i < FRS_LANES; ++i) index[i] = i;
  return index < count;
}
template <class T>
FRS_INLINE typename VectorOf<T>::V load(const T* p, FullVector, float = 0.0f) {
  return load(p);
}
template <class T>
FRS_INLINE Floats load(const T* p, PartialVector extent, float fill = 0.0f) {
  T lanes[FRS_LANES] = {};
  for (int i = 0; i < extent.count; ++i) lanes[i] = p[i];
  return lane_mask(extent.count) ? load(lanes) : Floats{} + fill;
}
FRS_INLINE Floats load(const float* p, PartialVector extent, float fill = 0.0f) {
#if defined(__AVX512F__)
  return _mm512_mask_loadu_ps(Floats{} + fill, (1u << extent.count) - 1, p);
#elif defined(__AVX2__)
  const Ints present = lane_mask(extent.count);
  const Floats lanes = _mm256_maskload_ps(p, (__m256i)present);
  return present ? lanes : Floats{} + fill;
#else
  return load<float>(p, extent, fill);
#endif
}
FRS_INLINE double load(const double* p, PartialVector, float = 0.0f) { return *p; }  // not reached: one lane
template <class T>
FRS_INLINE void store(T* p, FullVector, typename VectorOf<T>::V v) {
  store(p, v);
}
template <class T>
FRS_INLINE void store(T* p, PartialVector extent, Floats v) {
  T lanes[FRS_LANES];
  store(lanes, v);
  for (int i = 0; i < extent.count; ++i) p[i] = lanes[i];
}
#if defined(__AVX512F__)
FRS_INLINE void store(float* p, PartialVector extent, Floats v) {
  _mm512_mask_storeu_ps(p, (1u << extent.count) - 1, v);
}
#elif defined(__AVX2__)
FRS_INLINE void store(float* p, PartialVector extent, Floats v) {
  _mm256_maskstore_ps(p, (__m256i)lane_mask(extent.count), v);
}
#endif
FRS_INLINE void store(double* p, PartialVector, double v) { *p = v; }
// A partial vector gets a plain store: a non-temporal one writes full vectors only.
template <class T, class V>
FRS_INLINE void store_gradient(T* p, FullVector, V v, bool non_temporal) {
  non_temporal ? store_non_temporal(p, v) : store(p, v);
}
template <class T, class V>
FRS_INLINE void store_gradient(T* p, PartialVector extent, V v, bool) {
  store(p, extent, v);
}

// Calls body(i, FullVector or PartialVector) for [begin, end) in steps of kStep elements, or of one vector.
template <int64_t kStep, class Body>
FRS_INLINE void for_steps(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + kStep <= end; i += kStep) body(i, FullVector{});
  if (i < end) body(i, PartialVector{static_cast<int>(end - i)});
}
template <class T, class Body>
FRS_INLINE void for_vectors(int64_t begin, int64_t end, const Body& body) {
  for_steps<VectorOf<T>::kLanes>(begin, end, body);
}

FRS_INLINE double sum(double v) { return v; }
FRS_INLINE double sum(Floats v) {  // of the lanes, as a binary tree: deterministic
  float lanes[FRS_LANES];
  store(lanes, v);
  for (int width = FRS_LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

// Calls f(Student*, Teacher*) with null pointers of the element types of two codes; float64 is paired only
// with itself.
template <class Student, class F>
FRS_INLINE auto with_teacher(DType teacher, const F& f) {
  Student* student = nullptr;
  if (teacher == DType::bf16) return f(student, static_cast<BFloat16*>(nullptr));
  if (teacher == DType::f16) return f(student, static_cast<Half*>(nullptr));
  return f(student, static_cast<float*>(nullptr));
}
template <class F>
FRS_INLINE auto with_types(DType student, DType teacher, const F& f) {
  if (student == DType::f64) return f(static_cast<double*>(nullptr), static_cast<double*>(nullptr));
  if (student == DType::bf16) return with_teacher<BFloat16>(teacher, f);
  if (student == DType::f16) return with_teacher<Half>(teacher, f);
  return with_teacher<float>(teacher, f);
}

}  // namespace
}  // namespace cpu::FRS_ISA
}  // namespace frs
