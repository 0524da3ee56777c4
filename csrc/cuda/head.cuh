// The head term of one element: the binary cross-entropy of sigmoid(s) against sigmoid(T), plain or
// quality-focal, and its derivative with respect to s: sigmoid(s) - sigmoid(T) in the plain form. frs/math.h
// has the formulas.
#pragma once

#include "codec.cuh"
#include "frs/contract.h"
#include "frs/math.h"

namespace frs::cuda {

// |x| as an operand modifier, which is free; the bit operation of frs/math.h is an instruction of its own.
FRS_DEVICE float magnitude(float x) { return fabsf(x); }
FRS_DEVICE double magnitude(double x) { return fabs(x); }

// e^-|x|, and 1/x for 1 <= x <= 4: one instruction of the special function unit each.
FRS_DEVICE float exp_negative_abs(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(magnitude(x) * -1.44269504f));
  return y;
#else
  return exp_nonpositive(negative_abs(x));
#endif
}
FRS_DEVICE double exp_negative_abs(double x) { return exp_nonpositive(negative_abs(x)); }

FRS_DEVICE float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}
FRS_DEVICE double reciprocal(double x) { return 1.0 / x; }

// log2(x) for x >= 1 in one instruction. The error is at most 2^-22: absolute for x < 2, relative above.
FRS_DEVICE float log2_approximate(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return log2f(x);
#endif
}

// log(1 + q) for q >= 0, with a relative error of at most 1.1e-6. Below 1/4 it is a minimax polynomial
// (relative error 7e-8), because near x = 1 the absolute error of log2_approximate is a large relative one.
FRS_DEVICE float log1p_nonnegative(float q) {
  float p = q * -9.35588479e-2f + 1.82518214e-1f;
  p = p * q - 2.47975990e-1f;
  p = p * q + 3.33228469e-1f;
  p = p * q - 4.99998212e-1f;
  p = p * q * q + q;
  return q < 0.25f ? p : log2_approximate(1.0f + q) * 0.693147181f;
}
FRS_DEVICE double log1p_nonnegative(double q) { return log1p(q); }

// Plain cross-entropy. The sum of log(1 + e_i) over a location is one logarithm, of the product of (1 + e_i).
template <class Acc>
struct Head {
  static constexpr bool kChannelWeighted = false;
  static constexpr int kMaxFactors = kMaxLogFactors;

  struct Sums {
    Acc linear = 0, product = 0;
  };

  explicit FRS_DEVICE Head(double) {}
  FRS_DEVICE Acc add(Acc s, Acc t, Acc, Sums& sums) const {
    const Acc es = exp_negative_abs(s), et = exp_negative_abs(t);
    const CrossEntropy<Acc> h =
        cross_entropy<Acc>(magnitude(s), signs_differ(s, t), es, et, reciprocal((1 + es) * (1 + et)));
    sums.linear += h.linear;
    sums.product = log_product(sums.product, h.exp_abs);
    return flip_by_sign(h.slope, s);
  }
  FRS_DEVICE Acc value(const Sums& sums) const { return sums.linear + log1p_nonnegative(sums.product); }
  // Takes the logarithm of the product so far. Must be called at least once every kMaxFactors elements.
  FRS_DEVICE void fold(Sums& sums) const { sums = {value(sums), 0}; }
};

// Quality-focal cross-entropy: |sigmoid(s) - sigmoid(T)|^beta times the plain one.
template <class Acc>
struct FocalHead {
  static constexpr bool kChannelWeighted = false;
  static constexpr int kMaxFactors = 1 << 30;

  struct Sums {
    Acc linear = 0;
  };
  Acc beta;

  explicit FRS_DEVICE FocalHead(double beta) : beta(static_cast<Acc>(beta)) {}
  FRS_DEVICE Acc add(Acc s, Acc t, Acc, Sums& sums) const {
    const Focal<Acc> f = focal(cross_entropy(s, t), beta);
    sums.linear += f.value;
    return flip_by_sign(f.slope, s);
  }
  FRS_DEVICE Acc value(const Sums& sums) const { return sums.linear; }
  FRS_DEVICE void fold(Sums&) const {}
};

// No head term: only the mask is wanted.
template <class Acc>
struct NoHead {
  static constexpr int kMaxFactors = 1 << 30;
  struct Sums {};
};

}  // namespace frs::cuda
