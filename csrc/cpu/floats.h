// Vectors of floats as wide as the instruction set that this file is compiled for, and the operations on them
// that frs/math.h leaves to whoever has an instruction for them. GCC's and Clang's vector extensions: the
// same source for every instruction set.
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
FRS_INLINE Floats to_float(Ints n) { return __builtin_convertvector(n, Floats); }
FRS_INLINE Floats larger(Floats x, Floats y) {  // y where one of them is NaN
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, x, y);
#elif defined(__AVX2__)
  return _mm256_max_ps(x, y);
#else
  return x > y ? x : y;
#endif
}
FRS_INLINE Floats if_negative(Floats x, Floats a, Floats b) {  // by the sign bit
#if defined(__AVX2__) && !defined(__AVX512F__)
  return _mm256_blendv_ps(b, a, x);
#else
  Ints bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits < 0 ? a : b;
#endif
}

#if defined(__AVX2__)
// table[bits % 8] in every lane.
FRS_INLINE Ints entry(const int32_t (&table)[8], Ints bits) {
  Ints entries;
  for (int i = 0; i < FRS_LANES; ++i) entries[i] = table[i % 8];
#if defined(__AVX512F__)
  return (Ints)_mm512_maskz_permutexvar_epi32(0xffff, (__m512i)bits, (__m512i)entries);
#else
  return (Ints)_mm256_permutevar8x32_epi32((__m256i)entries, (__m256i)bits);
#endif
}

// e^x for x <= 0, as the template of frs/math.h has it, in eighths of a power of two: e^x = 2^(n/8) e^r with
// |r| <= ln(2) / 16, where a polynomial of degree 3 has a relative error of 3e-8. The last three bits of n
// pick the fraction of 2^(n/8) from a table, the others are its exponent.
FRS_INLINE Floats exp_nonpositive(Floats x) {
  constexpr float kRound = 12582912.0f + 8 * 127.0f, kLog2E = 8 * 1.44269502f;
  constexpr float kLn2Head = 0.693147182f / 8, kLn2Tail = -1.90465429e-9f / 8;
  constexpr int32_t kFractions[8] = {// bits of 2^(k/8), less those of 1 and what k adds to the exponent
                                     0, -289342, -509968, -655657, -719629, -694486, -572163, -343865};
  x = larger(Floats{} - 88.0f, x);  // -88 rounds to 2^-127, whose bits are those of 0
  const Floats shifted = x * kLog2E + kRound;
  const Floats n = shifted - kRound;
  const Floats near = x - n * kLn2Head,
               r = near - n * kLn2Tail;  // fused; the slope needs no more than `near`
  const Ints bits = (Ints)shifted;
  const Floats power = (Floats)((bits << 20) + entry(kFractions, bits));
  const Floats slope = (near * 0.1666823228f + 0.5000647755f) * near + 1.0f;
  return power * r * slope + power;
}
#endif

}  // namespace frs

#include "frs/math.h"  // whose templates call these

namespace frs {

template <>
struct BitsOf<Floats> {
  using type = Ints;
};

}  // namespace frs
