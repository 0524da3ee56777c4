// The scalar maths of all CPU and CUDA kernels. V is float or double (g++ and nvcc), or a vector of floats
// (csrc/cpu/floats.h): there a comparison gives a lane mask, and `mask ? a : b` selects lane by lane.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "frs/host_device.h"

namespace frs {

template <class V>
struct BitsOf;  // the signed integer type, or vector of integers, as wide as V
template <>
struct BitsOf<float> {
  using type = int32_t;
};
template <>
struct BitsOf<double> {
  using type = int64_t;
};
template <class V>
using Bits = typename BitsOf<V>::type;

template <class To, class From>
FRS_HOST_DEVICE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs types of one size");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

template <class V>
FRS_HOST_DEVICE V negative_abs(V x) {  // -|x|
  return bit_cast<V>(bit_cast<Bits<V>>(x) | INT32_MIN);
}
FRS_HOST_DEVICE double negative_abs(double x) { return -fabs(x); }

template <class V>
FRS_HOST_DEVICE V flip_by_sign(V value, V sign) {  // value, negated where the sign bit of `sign` is set
  return bit_cast<V>(bit_cast<Bits<V>>(value) ^ (bit_cast<Bits<V>>(sign) & INT32_MIN));
}
FRS_HOST_DEVICE double flip_by_sign(double value, double sign) {
  return bit_cast<double>(bit_cast<int64_t>(value) ^ (bit_cast<int64_t>(sign) & INT64_MIN));
}

// csrc/cpu/floats.h overloads these operations, and exp_nonpositive below, with vector instructions.
FRS_HOST_DEVICE float to_float(int32_t n) { return static_cast<float>(n); }
FRS_HOST_DEVICE float larger(float x, float y) { return x > y ? x : y; }  // y if either is NaN
FRS_HOST_DEVICE double larger(double x, double y) { return x > y ? x : y; }
// a where the sign bit of x is set, else b.
FRS_HOST_DEVICE float if_negative(float x, float a, float b) { return bit_cast<int32_t>(x) < 0 ? a : b; }
FRS_HOST_DEVICE double if_negative(double x, double a, double b) { return bit_cast<int64_t>(x) < 0 ? a : b; }

// ln 2 in two parts: n * kLn2High is exact for the exponents n of floats.
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

// e^x = 2^n e^r with n = round(x log2 e) and |r| <= ln(2) / 2. e^r is a minimax polynomial with a relative
// error of 2e-9. Adding 1.5 * 2^23 + 127 rounds to an integer and leaves n + 127 in the low bits, from where
// one shift moves it into the exponent field.
template <class V>
struct ExpParts {
  V fraction;               // e^r; NaN stays NaN
  Bits<V> biased_exponent;  // n + 127 in the low nine bits, arbitrary bits above
};
template <class V>
FRS_HOST_DEVICE ExpParts<V> exp_parts(V x) {
  constexpr float kRound = 12582912.0f + 127.0f, kLog2E = 1.44269502f;
  const V shifted = x * kLog2E + kRound;
  const V n = shifted - kRound;
  const V r = (x - n * kLn2High) - n * kLn2Low;
  V p = r * 1.3843606748443502e-3f + 8.374195643626514e-3f;
  p = p * r + 4.166800472622094e-2f;
  p = p * r + 1.6666430800097812e-1f;
  p = p * r + 4.9999994191643926e-1f;
  p = p * r + 1.0f;
  return {p * r + 1.0f, bit_cast<Bits<V>>(shifted)};
}
// n 2^23, modulo 2^32. n is arbitrary where it comes from a NaN, so the scalar version shifts as unsigned: a
// left shift of a negative int is undefined before C++20. Vectors wrap.
template <class N>
FRS_HOST_DEVICE N shift_to_exponent(N n) {
  return n << 23;
}
FRS_HOST_DEVICE int32_t shift_to_exponent(int32_t n) {
  return static_cast<int32_t>(static_cast<uint32_t>(n) << 23);
}
// 2^(biased - 127) for 0 < biased < 255; 0 for biased = 0, Inf for biased = 255.
template <class V>
FRS_HOST_DEVICE V power_of_two(Bits<V> biased) {
  return bit_cast<V>(shift_to_exponent(biased));
}

// e^x for x <= 0. Results below the normal range are 0: -88 gives n = -127, hence biased exponent 0.
template <class V>
FRS_HOST_DEVICE V exp_nonpositive(V x) {
  const ExpParts<V> parts = exp_parts(larger(V{} - 88.0f, x));
  return parts.fraction * power_of_two<V>(parts.biased_exponent);
}
FRS_HOST_DEVICE double exp_nonpositive(double x) { return ::exp(x); }

// e^x over the whole range. 2^n is applied as two factors, so that subnormal results are right.
template <class V>
FRS_HOST_DEVICE V exp(V x) {
  V y = x < -110.0f ? V{} - 110.0f : x;
  y = y > 90.0f ? V{} + 90.0f : y;
  const ExpParts<V> parts = exp_parts(y);
  const Bits<V> n = parts.biased_exponent - (0x4b400000 + 127), half = n >> 1;
  return parts.fraction * power_of_two<V>(half + 127) * power_of_two<V>(n - half + 127);
}
FRS_HOST_DEVICE double exp(double x) { return ::exp(x); }

// log(1 + f) - f for 1/sqrt(2) - 1 <= f <= sqrt(2) - 1 (the polynomial is that of Cephes' logf).
template <class V>
FRS_HOST_DEVICE V log1p_reduced(V f) {
  V p = f * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const V square = f * f;
  return p * f * square - square * 0.5f;
}

// log(1 + x): -Inf at -1, NaN below. With u = 1 + x = 2^k m it is k ln 2 + log(1 + f), where f is m - 1 plus
// the rounding error of u.
template <class V>
FRS_HOST_DEVICE V log1p(V x) {
  constexpr int32_t kSqrtHalf = 0x3f3504f3;  // bits of sqrt(1/2)
  const V u = x + 1.0f;
  const V lost = x > 1.0f ? (x - u) + 1.0f : x - (u - 1.0f);
  const Bits<V> k = (bit_cast<Bits<V>>(u) - kSqrtHalf) >> 23;
  // 2^-k. It stays finite for the largest k, where `lost` no longer counts.
  const V shrink = power_of_two<V>(k > 126 ? Bits<V>{} + 1 : 127 - k);
  const V m = bit_cast<V>(bit_cast<Bits<V>>(u) - shift_to_exponent(k));
  const V f = (m - 1.0f) + lost * shrink;
  const V n = to_float(k);
  const V y = n * kLn2High + (f + (n * kLn2Low + log1p_reduced(f)));
  const V special = x == -1.0f ? V{} - INFINITY : x;  // Inf and NaN are their own results
  const V not_finite = x < -1.0f ? V{} + NAN : special;
  return (x > -1.0f) & (x < INFINITY) ? y : not_finite;
}
FRS_HOST_DEVICE double log1p(double x) { return ::log1p(x); }

// Subnormal results are kept: there is one sigmoid per location, so the slower exp costs little.
template <class V>
FRS_HOST_DEVICE V sigmoid(V x) {
  const V e = exp(negative_abs(x)), large = 1.0f / (1.0f + e);
  return if_negative(x, e * large, large);
}

// A value whose sign bit is set where the signs of s and t differ; its other bits are meaningless.
template <class V>
FRS_HOST_DEVICE V signs_differ(V s, V t) {
  return bit_cast<V>(bit_cast<Bits<V>>(s) ^ bit_cast<Bits<V>>(t));
}

// w times the cross-entropy of sigmoid(s) against sigmoid(t), written in terms of |s| so that nothing cancels
// for large logits:
//   softplus(s) - sigmoid(t) s = |s| sigmoid(-sign(s) t) + log1p(exp(-|s|))
//   its derivative by |s|, sign(s) (sigmoid(s) - sigmoid(t)) = (same sign ? et - es : 1 - es et) r
template <class V>
struct CrossEntropy {
  V linear, exp_abs;  // the value is linear + w log1p(exp_abs); log_product sums the logarithms
  V slope;            // derivative by |s|, exactly 0 where s == t; flip_by_sign(slope, s) is the gradient
  V variance;         // sigmoid(s) sigmoid(-s); valid for w = 1 only
};
// The linear part, |s| sigmoid(-sign(s) t), from teacher = sigmoid(|t|); w multiplies both.
template <class V>
FRS_HOST_DEVICE V cross_entropy_linear(V abs_s, V differ, V et, V teacher) {
  return abs_s * (if_negative(differ, V{} + 1.0f, et) * teacher);
}
// abs_s = |s|, differ = signs_differ(s, t), es = exp(-|s|), et = exp(-|t|), r = w / ((1 + es) (1 + et)).
template <class V>
FRS_HOST_DEVICE CrossEntropy<V> cross_entropy(V abs_s, V differ, V es, V et, V r) {
  const V student = (1.0f + et) * r, teacher = (1.0f + es) * r;  // w sigmoid(|s|), w sigmoid(|t|)
  // sigmoid(-sign(s) t) and sigmoid(sign(s) t), divided by sigmoid(|t|).
  const V opposed = if_negative(differ, V{} + 1.0f, et), aligned = if_negative(differ, et, V{} + 1.0f);
  const V linear = cross_entropy_linear(abs_s, differ, et, teacher);
  return {linear, es, (opposed - es * aligned) * r, es * student * student};
}
template <class V>
struct ExpPair {
  V student, teacher;  // exp(-|s|), exp(-|t|)
};
template <class V>
FRS_HOST_DEVICE CrossEntropy<V> cross_entropy(V abs_s, V differ, const ExpPair<V>& e, V w) {
  return cross_entropy<V>(abs_s, differ, e.student, e.teacher, w / ((1.0f + e.student) * (1.0f + e.teacher)));
}
template <class V>
FRS_HOST_DEVICE CrossEntropy<V> cross_entropy(V s, V t) {
  const ExpPair<V> e = {exp_nonpositive(negative_abs(s)), exp_nonpositive(negative_abs(t))};
  return cross_entropy<V>(-negative_abs(s), signs_differ(s, t), e, V{} + 1.0f);
}

// With q = prod(1 + e_i) - 1, returns the q of one more factor. log1p(q) is the sum of log1p(e_i), and small
// e_i keep their precision. The product of 100 factors of at most 2 is still within the range of a float.
template <class V>
FRS_HOST_DEVICE V log_product(V q, V e) {
  return q * (1.0f + e) + e;
}

template <class V>
FRS_HOST_DEVICE V bce(V s, V t) {
  const CrossEntropy<V> h = cross_entropy(s, t);
  return h.linear + log1p(h.exp_abs);
}

// log(x) for 0 < x <= 1. A subnormal x counts as 0: the result is finite and below that of any normal x.
template <class V>
FRS_HOST_DEVICE V log_unit(V x) {
  constexpr int32_t kSqrtHalf = 0x3f3504f3;
  const Bits<V> k = (bit_cast<Bits<V>>(x) - kSqrtHalf) >> 23;
  const V f = bit_cast<V>(bit_cast<Bits<V>>(x) - shift_to_exponent(k)) - 1.0f;
  const V n = to_float(k);
  return n * kLn2High + (f + (n * kLn2Low + log1p_reduced(f)));
}

// x^y for 0 < x <= 1.
template <class V>
FRS_HOST_DEVICE V power_unit(V x, float y) {
  return exp(y * log_unit(x));
}
FRS_HOST_DEVICE double power_unit(double x, double y) { return ::pow(x, y); }

// The quality focal form |p - q|^beta bce, p = sigmoid(s), q = sigmoid(t). With d = |p - q| and w =
// d^(beta-1):
//   value  = d w bce
//   d/d|s| = d w slope + beta w sign(slope) p (1 - p) bce
// w counts as 0 where d is 0, so that beta < 1 gives no Inf.
template <class V>
struct Focal {
  V value, slope;
};
template <class V, class Beta>
FRS_HOST_DEVICE Focal<V> focal(const CrossEntropy<V>& h, Beta beta) {
  const V entropy = h.linear + log1p(h.exp_abs);
  const V d = -negative_abs(h.slope);
  const V power = beta == 2 ? d : beta == 1 ? V{} + 1.0f : power_unit(d, beta - 1);
  const V w = d == 0.0f ? V{} : power;
  const V signed_w = h.slope < 0.0f ? -w : w;
  return {d * w * entropy, d * w * h.slope + beta * signed_w * h.variance * entropy};
}

}  // namespace frs
