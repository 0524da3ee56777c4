// Vectors of floats as wide as the instruction set that this file is compiled for, and the operations of
// frs/math.h that have vector instructions. The types are GCC's and Clang's vector extensions, so that one
// source serves every instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace frs {

#if defined(__AVX512F__)
#define FRS_LANES 16
#elif defined(__AVX2__)
#define FRS_LANES 8
#else
#define FRS_LANES 4
#endif

typedef float Floats __attribute__((vector_size(FRS_LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(FRS_LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(FRS_LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(FRS_LANES * 2)));

#define FRS_INLINE inline __attribute__((always_inline))
#define FRS_INLINE_LAMBDA __attribute__((always_inline))
FRS_INLINE Floats to_float(Ints n) { return __builtin_convertvector(n, Floats); }
FRS_INLINE Floats larger(Floats x, Floats y) {  // y in lanes where either is NaN
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, x, y);
#elif defined(__AVX2__)
  return _mm256_max_ps(x, y);
#else
  return x > y ? x : y;
#endif
}
FRS_INLINE Floats if_negative(Floats x, Floats a, Floats b) {  // a where the sign bit of x is set, else b
#if defined(__AVX2__) && !defined(__AVX512F__)
  return _mm256_blendv_ps(b, a, x);
#else
  Ints bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits < 0 ? a : b;
#endif
}

#if defined(__AVX2__)
// table[index % 8] in every lane: one permute of a register that holds the table.
FRS_INLINE Ints lookup(const int32_t (&table)[8], Ints index) {
  Ints entries;
  for (int i = 0; i < FRS_LANES; ++i) entries[i] = table[i % 8];
#if defined(__AVX512F__)
  return (Ints)_mm512_maskz_permutexvar_epi32(0xffff, (__m512i)index, (__m512i)entries);
#else
  return (Ints)_mm256_permutevar8x32_epi32((__m256i)entries, (__m256i)index);
#endif
}

// e^x for x <= 0, with results below the normal range 0, as in frs/math.h. Shorter than the template there:
// e^x = 2^(n/8) e^r with |r| <= ln(2) / 16, where a polynomial of degree 3 has a relative error of 3e-8. The
// low three bits of n select the fraction of 2^(n/8) from a table; the other bits are its exponent.
FRS_INLINE Floats exp_nonpositive(Floats x) {
  constexpr float kRound = 12582912.0f + 8 * 127.0f, kLog2E = 8 * 1.44269502f;
  constexpr float kEighthLn2High = 0.693147182f / 8, kEighthLn2Low = -1.90465429e-9f / 8;
  // The bits of 2^(k/8), minus the bits of 1, minus k << 20, which bits << 20 adds below.
  constexpr int32_t kFractions[8] = {0, -289342, -509968, -655657, -719629, -694486, -572163, -343865};
  x = larger(Floats{} - 88.0f, x);  // -88 gives the biased exponent 0, whose float is 0
  const Floats shifted = x * kLog2E + kRound;
  const Floats n = shifted - kRound;
  const Floats near = x - n * kEighthLn2High;  // with a fused multiply-add; precise enough for the quotient
  const Floats r = near - n * kEighthLn2Low;
  const Ints bits = (Ints)shifted;
  const Floats power = (Floats)((bits << 20) + lookup(kFractions, bits));
  const Floats quotient = (near * 0.1666823228f + 0.5000647755f) * near + 1.0f;  // (e^r - 1) / r
  return power * r * quotient + power;
}
#endif

}  // namespace frs

#include "frs/math.h"  // after the functions above, which its templates call

namespace frs {

template <>
struct BitsOf<Floats> {
  using type = Ints;
};

}  // namespace frs
