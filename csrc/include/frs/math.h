// The scalar maths of every kernel, written once. V is float or double (g++ and nvcc), or a vector of floats
// (csrc/cpu/floats.h): comparisons of vectors are lane masks, and `mask ? a : b` selects lane by lane.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "frs/host_device.h"

namespace frs {

template <class V>
struct BitsOf;  // the integer (vector) as wide as V
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
  static_assert(sizeof(To) == sizeof(From), "bit_cast changes no size");
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
FRS_HOST_DEVICE V flip_by_sign(V value, V sign) {  // negated where `sign` is negative
  return bit_cast<V>(bit_cast<Bits<V>>(value) ^ (bit_cast<Bits<V>>(sign) & INT32_MIN));
}
FRS_HOST_DEVICE double flip_by_sign(double value, double sign) {
  return bit_cast<double>(bit_cast<int64_t>(value) ^ (bit_cast<int64_t>(sign) & INT64_MIN));
}

// The operations that vectors have their own instructions for (csrc/cpu/floats.h, where exp_nonpositive has a
// version of its own, too).
FRS_HOST_DEVICE float to_float(int32_t n) { return static_cast<float>(n); }
FRS_HOST_DEVICE float larger(float x, float y) { return x > y ? x : y; }  // y where one of them is NaN
FRS_HOST_DEVICE double larger(double x, double y) { return x > y ? x : y; }
FRS_HOST_DEVICE float if_negative(float x, float a, float b) { return bit_cast<int32_t>(x) < 0 ? a : b; }
FRS_HOST_DEVICE double if_negative(double x, double a, double b) { return bit_cast<int64_t>(x) < 0 ? a : b; }

// e^x = 2^n e^r with n = round(x log2 e), |r| <= ln(2) / 2, and e^r a minimax polynomial, whose
// relative error is 2e-9. Adding 1.5 * 2^23 + 127 rounds to an integer and leaves n + 127 in the low bits,
// where the exponent field is one shift away.
template <class V>
struct ExpParts {
  V fraction;      // e^r; NaN stays NaN
  Bits<V> biased;  // n + 127 in the low nine bits, others above
};
template <class V>
FRS_HOST_DEVICE ExpParts<V> exp_parts(V x) {
  constexpr float kRound = 12582912.0f + 127.0f, kLog2E = 1.44269502f;
  constexpr float kLn2Head = 0.693359375f, kLn2Tail = -2.12194440e-4f;
  const V shifted = x * kLog2E + kRound;
  const V n = shifted - kRound;
  const V r = (x - n * kLn2Head) - n * kLn2Tail;  // n times the head of ln 2 is exact
  V p = r * 1.3843606748443502e-3f + 8.374195643626514e-3f;
  p = p * r + 4.166800472622094e-2f;
  p = p * r + 1.6666430800097812e-1f;
  p = p * r + 4.9999994191643926e-1f;
  p = p * r + 1.0f;
  return {p * r + 1.0f, bit_cast<Bits<V>>(shifted)};
}
// n 2^23; n may be anything where x is NaN, and only unsigned numbers and vectors shift whatever they are.
template <class N>
FRS_HOST_DEVICE N in_exponent(N n) {
  return n << 23;
}
FRS_HOST_DEVICE int32_t in_exponent(int32_t n) {
  return static_cast<int32_t>(static_cast<uint32_t>(n) << 23);
}
template <class V>
FRS_HOST_DEVICE V
power_of_two(Bits<V> biased) {  // 2^(biased - 127) for 0 (then 0) <= biased <= 255 (then Inf)
  return bit_cast<V>(in_exponent(biased));
}

// e^x for x <= 0. Results below the normal range are 0.
template <class V>
FRS_HOST_DEVICE V exp_nonpositive(V x) {
  const ExpParts<V> parts =
      exp_parts(larger(V{} - 88.0f, x));  // -88 rounds to 2^-127, whose bits are those of 0
  return parts.fraction * power_of_two<V>(parts.biased);
}
FRS_HOST_DEVICE double exp_nonpositive(double x) { return ::exp(x); }

// e^x over the whole range, subnormal results included: the power of two is applied in two halves.
template <class V>
FRS_HOST_DEVICE V exp(V x) {
  V y = x < -110.0f ? V{} - 110.0f : x;
  y = y > 90.0f ? V{} + 90.0f : y;
  const ExpParts<V> parts = exp_parts(y);
  const Bits<V> n = parts.biased - (0x4b400000 + 127), half = n >> 1;
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

// log(1 + x) for x > -1; -Inf at -1, NaN below. With u = 1 + x = 2^k m, f = m - 1 plus what rounding u lost.
template <class V>
FRS_HOST_DEVICE V log1p(V x) {
  constexpr int32_t kSqrtHalf = 0x3f3504f3;  // bits of sqrt(1/2)
  const V u = x + 1.0f;
  const V lost = x > 1.0f ? (x - u) + 1.0f : x - (u - 1.0f);
  const Bits<V> k = (bit_cast<Bits<V>>(u) - kSqrtHalf) >> 23;
  const V shrink = power_of_two<V>(k > 126 ? Bits<V>{} + 1 : 127 - k);  // lost counts for nothing long before
  const V m = bit_cast<V>(bit_cast<Bits<V>>(u) - in_exponent(k));
  const V f = (m - 1.0f) + lost * shrink;
  const V n = to_float(k);
  const V y = n * 0.693359375f + (f + (n * -2.12194440e-4f + log1p_reduced(f)));
  const V special = x == -1.0f ? V{} - INFINITY : x;  // Inf and NaN; below -1 the logarithm is not a number
  const V invalid = x < -1.0f ? V{} + NAN : special;
  return (x > -1.0f) & (x < INFINITY) ? y : invalid;
}
FRS_HOST_DEVICE double log1p(double x) { return ::log1p(x); }

// Subnormal results included: there is one a location, so it may cost a little more.
template <class V>
FRS_HOST_DEVICE V sigmoid(V x) {
  const V e = exp(negative_abs(x)), large = 1.0f / (1.0f + e);
  return if_negative(x, e * large, large);
}

// Negative where the signs of s and t differ.
template <class V>
FRS_HOST_DEVICE V apart(V s, V t) {
  return bit_cast<V>(bit_cast<Bits<V>>(s) ^ bit_cast<Bits<V>>(t));
}

// w times the cross-entropy of sigmoid(s) against sigmoid(t), all of it in terms of |s|. Nothing cancels,
// however large s and t are:
//   softplus(s) - sigmoid(t) s = |s| sigmoid(-sign(s) t) + log1p(exp(-|s|))
//   its derivative by |s|, sign(s) (sigmoid(s) - sigmoid(t)) = (same sign ? et - es : 1 - es et) r
template <class V>
struct CrossEntropy {
  V linear, exp_abs;  // its value is linear + w log1p(exp_abs); see log_product for sums of these
  V slope;            // by |s|, exactly 0 where s == t; flip_by_sign(slope, s) is the gradient
  V variance;         // sigmoid(s) sigmoid(-s), if w is 1
};
// From |s|, apart(s, t), es = exp(-|s|), et = exp(-|t|) and r = w / ((1 + es) (1 + et)).
template <class V>
FRS_HOST_DEVICE CrossEntropy<V> cross_entropy(V size, V apart, V es, V et, V r) {
  const V large = (1.0f + et) * r, teacher = (1.0f + es) * r;  // w sigmoid(|s|), w sigmoid(|t|)
  const V with = if_negative(apart, V{} + 1.0f, et), against = if_negative(apart, et, V{} + 1.0f);
  return {size * (with * teacher), es, (with - es * against) * r, es * large * large};
}
template <class V>
struct Decays {
  V student, teacher;  // exp(-|s|), exp(-|t|)
};
template <class V>
FRS_HOST_DEVICE CrossEntropy<V> cross_entropy(V size, V apart, const Decays<V>& e, V w) {
  return cross_entropy<V>(size, apart, e.student, e.teacher, w / ((1.0f + e.student) * (1.0f + e.teacher)));
}
template <class V>
FRS_HOST_DEVICE CrossEntropy<V> cross_entropy(V s, V t) {
  const Decays<V> e = {exp_nonpositive(negative_abs(s)), exp_nonpositive(negative_abs(t))};
  return cross_entropy<V>(-negative_abs(s), apart(s, t), e, V{} + 1.0f);
}

// prod(1 + e_i) - 1 grown by one factor, without losing small e_i: log1p of it is the sum of log1p(e_i).
// At most 100 factors of at most 2 stay in the range of a float.
template <class V>
FRS_HOST_DEVICE V log_product(V q, V e) {
  return q * (1.0f + e) + e;
}

template <class V>
FRS_HOST_DEVICE V bce(V s, V t) {
  const CrossEntropy<V> h = cross_entropy(s, t);
  return h.linear + log1p(h.exp_abs);
}

// log(x) for 0 < x <= 1: subnormals count as 0, whose logarithm is below every normal number's.
template <class V>
FRS_HOST_DEVICE V log_unit(V x) {
  constexpr int32_t kSqrtHalf = 0x3f3504f3;
  const Bits<V> k = (bit_cast<Bits<V>>(x) - kSqrtHalf) >> 23;
  const V f = bit_cast<V>(bit_cast<Bits<V>>(x) - in_exponent(k)) - 1.0f;
  const V n = to_float(k);
  return n * 0.693359375f + (f + (n * -2.12194440e-4f + log1p_reduced(f)));
}

// x^y for 0 < x <= 1.
template <class V>
FRS_HOST_DEVICE V power_unit(V x, float y) {
  return exp(y * log_unit(x));
}
FRS_HOST_DEVICE double power_unit(double x, double y) { return ::pow(x, y); }

// Quality focal form |p - q|^beta bce, p = sigmoid(s), q = sigmoid(t). With d = |p - q| and w = d^(beta-1):
//   value  = d w bce
//   d/d|s| = d w slope + beta w sign(slope) p (1 - p) bce, whose second part is 0 where d is
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
