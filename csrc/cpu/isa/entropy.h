// The head term of one vector: cross-entropy against the teacher's sigmoid, and its gradient.
#pragma once

#include "../vec.h"

namespace frs::cpu::FRS_ISA {
namespace {

// Sums cross-entropies lane by lane. Each is linear + log1p(exp(-|s|)); the logarithms of up to kMaxTerms
// terms are taken as one, of their product.
template <class V>
struct PlainEntropy {
  static constexpr int kMaxTerms = 64;
  V linear{}, product{};

  explicit PlainEntropy(double) {}
  FRS_INLINE V add(V s, V t) {  // returns d/ds = sigmoid(s) - sigmoid(t)
    const CrossEntropy<V> h = cross_entropy(s, t);
    linear += h.linear;
    product = log_product(product, h.exp_abs);
    return h.gradient;
  }
  FRS_INLINE V total() const { return linear + log1p(product); }
};

// The same with the factor |sigmoid(s) - sigmoid(t)|^beta, beta > 0.
template <class V>
struct FocalEntropy {
  static constexpr int kMaxTerms = 1 << 20;
  using Scalar = std::conditional_t<std::is_same_v<V, double>, double, float>;
  V value{};
  Scalar beta;

  explicit FocalEntropy(double b) : beta(static_cast<Scalar>(b)) {}
  FRS_INLINE V add(V s, V t) {
    const Focal<V> f = focal_bce(s, t, beta);
    value += f.value;
    return f.gradient;
  }
  FRS_INLINE V total() const { return value; }
};

// Location-major blocks take so many rows at once: one logarithm and one access to S for all of them.
constexpr int64_t kRows = 8;

// A logit whose terms are exactly 0, beside another such: exp(-128) counts as 0. Fills the lanes past the
// channels.
constexpr float kNoLogit = -128.0f;

}  // namespace
}  // namespace frs::cpu::FRS_ISA
