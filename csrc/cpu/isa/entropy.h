// The head term of one vector: cross-entropy against the teacher's sigmoid, and its gradient.
#pragma once

#include "../vec.h"

namespace frs::cpu::FRS_ISA {
namespace {

// What the terms of one vector of locations (or of one location's channels) add up to. PlainEntropy: each is
// linear + log1p(exp(-|s|)); the logarithms of up to kMaxTerms terms are taken as one, of their product.
template <class V>
struct PlainEntropy {
  static constexpr int kMaxTerms = 64;
  V linear{}, product{};

  FRS_INLINE V add(V s, V t, double) {  // returns d/ds = sigmoid(s) - sigmoid(t)
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

  FRS_INLINE V add(V s, V t, double beta) {
    const Focal<V> f = focal_bce(s, t, static_cast<Scalar>(beta));
    value += f.value;
    return f.gradient;
  }
  FRS_INLINE V total() const { return value; }
};

// The single pass takes so many rows of a location-major block at once.
constexpr int64_t kRows = 8;

// A logit whose terms are exactly 0, beside another such: exp(-128) counts as 0. Fills the lanes past the
// channels.
constexpr float kNoLogit = -128.0f;

}  // namespace
}  // namespace frs::cpu::FRS_ISA
