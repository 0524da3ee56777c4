// How vectors of floats are loaded from and stored to each element type.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "floats.h"
#include "frs/contract.h"

namespace frs {

// Element types as they lie in memory.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

namespace cpu::FRS_ISA {
namespace {

// What the kernels are written in: V of float lanes for three element types, and one double for float64.
template <class T>
struct Lane {
  using V = Floats;
  using Scalar = float;
  static constexpr int kCount = FRS_LANES;
};
template <>
struct Lane<double> {
  using V = double;
  using Scalar = double;
  static constexpr int kCount = 1;
};

template <class To>
FRS_INLINE To read(const void* p) {
  To to;
  memcpy(&to, p, sizeof(to));
  return to;
}

FRS_INLINE Floats load(const float* p) { return read<Floats>(p); }
FRS_INLINE double load(const double* p) { return *p; }
FRS_INLINE Words widen(const uint16_t* p) {
#if defined(__AVX512F__)
  return (Words)_mm512_maskz_cvtepu16_epi32(0xffff, read<__m256i>(p));
#elif defined(__AVX2__)
  return (Words)_mm256_cvtepu16_epi32(
      read<__m128i>(p));  // GCC takes four instructions for __builtin_convertvector
#else
  return __builtin_convertvector(read<Halves>(p), Words);
#endif
}
FRS_INLINE Floats load(const BFloat16* p) { return bit_cast<Floats>(widen(&p->bits) << 16); }
FRS_INLINE Floats load(const Half* p) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(0xffff, read<__m256i>(p));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(read<__m128i>(p));
#else
  // The exponent moves by 112 (a product, so that subnormals become normal); Inf and NaN keep all its bits
  // set.
  const Words h = widen(&p->bits);
  const Words magnitude = (h & 0x7fff) << 13;
  const Words finite = bit_cast<Words>(bit_cast<Floats>(magnitude) * 0x1p112f);
  return bit_cast<Floats>((magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : finite) | (h & 0x8000) << 16);
#endif
}

FRS_INLINE void store(float* p, Floats v) { memcpy(p, &v, sizeof(v)); }
FRS_INLINE void store(double* p, double v) { *p = v; }
FRS_INLINE void store(BFloat16* p, Floats v) {  // to nearest, ties to even; any NaN becomes the quiet one
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
  const Words normal =
      (magnitude + 0xc8000fff + (magnitude >> 13 & 1)) >> 13;  // exponent - 112, ties to even
  const Words subnormal = bit_cast<Words>(bit_cast<Floats>(magnitude) + 0.5f) - 0x3f000000;
  const Words special = magnitude > 0x7f800000 ? Words{} + 0x7e00 : Words{} + 0x7c00;
  const Words finite = magnitude < 0x38800000 ? subnormal : normal;
  const Halves h = __builtin_convertvector((magnitude >= 0x47800000 ? special : finite) | sign, Halves);
#endif
  memcpy(p, &h, sizeof(h));
}

// A store past the caches, for float gradients that no cache would hold anyway: it spares reading the lines
// first. In pieces of 32 bytes, to which p is aligned; stream_fence ends a series of them.
template <class T, class V>
FRS_INLINE void stream(T* p, V v) {
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) {
    float lanes[FRS_LANES];
    store(lanes, v);
    for (int i = 0; i < FRS_LANES; i += 8)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(p + i), read<__m256i>(lanes + i));
    return;
  }
#endif
  store(p, v);
}
FRS_INLINE void stream_fence() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Asks for the line at p, wherever that is: it is never read here. fetch_once: for its last use, into the
// first cache only; the others keep what is still to be read, as the teacher's logits that made the mask.
// What calls them has to be inlined: the compiler drops the call of a function that does nothing else.
FRS_INLINE void fetch(const void* p) { __builtin_prefetch(p, 0, 3); }
FRS_INLINE void fetch_once(const void* p) { __builtin_prefetch(p, 0, 0); }

// How much of a vector is there: all of it, or, at the end of a row, `count` elements. Lanes beyond them are
// loaded as `fill` and not stored.
struct Whole {};
struct Part {
  int count;
};
FRS_INLINE Ints first(int count) {
  Ints index;
  for (int i = 0; i < FRS_LANES; ++i) index[i] = i;
  return index < count;
}
template <class T>
FRS_INLINE typename Lane<T>::V load(const T* p, Whole, float = 0.0f) {
  return load(p);
}
template <class T>
FRS_INLINE Floats load(const T* p, Part part, float fill = 0.0f) {
  T lanes[FRS_LANES] = {};
  for (int i = 0; i < part.count; ++i) lanes[i] = p[i];
  return first(part.count) ? load(lanes) : Floats{} + fill;
}
FRS_INLINE Floats load(const float* p, Part part, float fill = 0.0f) {
#if defined(__AVX512F__)
  return _mm512_mask_loadu_ps(Floats{} + fill, (1u << part.count) - 1, p);
#elif defined(__AVX2__)
  const Ints present = first(part.count);
  const Floats lanes = _mm256_maskload_ps(p, (__m256i)present);
  return present ? lanes : Floats{} + fill;
#else
  return load<float>(p, part, fill);
#endif
}
FRS_INLINE double load(const double* p, Part, float = 0.0f) { return *p; }  // a double is a whole vector
template <class T>
FRS_INLINE void store(T* p, Whole, typename Lane<T>::V v) {
  store(p, v);
}
template <class T>
FRS_INLINE void store(T* p, Part part, Floats v) {
  T lanes[FRS_LANES];
  store(lanes, v);
  for (int i = 0; i < part.count; ++i) p[i] = lanes[i];
}
#if defined(__AVX512F__)
FRS_INLINE void store(float* p, Part part, Floats v) { _mm512_mask_storeu_ps(p, (1u << part.count) - 1, v); }
#elif defined(__AVX2__)
FRS_INLINE void store(float* p, Part part, Floats v) {
  _mm256_maskstore_ps(p, (__m256i)first(part.count), v);
}
#endif
FRS_INLINE void store(double* p, Part, double v) { *p = v; }
template <class T, class V>
FRS_INLINE void put(T* p, Whole, V v, bool streamed) {
  streamed ? stream(p, v) : store(p, v);
}
template <class T, class V>
FRS_INLINE void put(T* p, Part part, V v, bool) {
  store(p, part, v);
}

// body(i, Whole or Part) over [begin, end) in steps of kStep elements, or of one vector.
template <int64_t kStep, class Body>
FRS_INLINE void for_steps(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + kStep <= end; i += kStep) body(i, Whole{});
  if (i < end) body(i, Part{static_cast<int>(end - i)});
}
template <class T, class Body>
FRS_INLINE void for_vectors(int64_t begin, int64_t end, const Body& body) {
  for_steps<Lane<T>::kCount>(begin, end, body);
}

FRS_INLINE double sum(double v) { return v; }
FRS_INLINE double sum(Floats v) {  // in the order of a tree: the same for every caller
  float lanes[FRS_LANES];
  store(lanes, v);
  for (int width = FRS_LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

// f(Student*, Teacher*) with the types that two codes stand for; float64 goes only with itself.
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
