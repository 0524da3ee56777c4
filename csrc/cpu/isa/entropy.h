// The head term of one vector: cross-entropy against the teacher's sigmoid, and its gradient.
#pragma once

#include "../vec.h"

namespace frs::cpu::FRS_ISA {
namespace {

// What the terms of one vector of locations (or of one location's channels) add up to. PlainEntropy: each is
// linear + log1p(exp(-|s|)); the logarithms of up to kMaxTerms terms are taken as one, of their product.
constexpr int64_t kMaxTerms = 64;

template <class V>
struct PlainEntropy {
  V linear{}, product{};

  FRS_INLINE V add(V s, V t, const Decays<V>& e, double) {  // returns d/ds = sigmoid(s) - sigmoid(t)
    const CrossEntropy<V> h = cross_entropy(s, t, e);
    linear += h.linear;
    product = log_product(product, h.exp_abs);
    return h.gradient;
  }
  FRS_INLINE V total() const { return linear + log1p(product); }
};

// The same with the factor |sigmoid(s) - sigmoid(t)|^beta, beta > 0.
template <class V>
struct FocalEntropy {
  using Scalar = std::conditional_t<std::is_same_v<V, double>, double, float>;
  V value{};

  FRS_INLINE V add(V s, V t, const Decays<V>& e, double beta) {
    const Focal<V> f = focal(cross_entropy(s, t, e), static_cast<Scalar>(beta));
    value += f.value;
    return f.gradient;
  }
  FRS_INLINE V total() const { return value; }
};

// body(i, part, decays) over the vectors of [begin, end), block by block: first all exponentials of a block,
// exponentials(i, part), then the rest of it. Their chain of dependent instructions is half of an element's;
// apart, more elements fit into what the processor looks ahead.
template <class T, class Exponentials, class Body>
FRS_INLINE void for_decays(int64_t begin, int64_t end, const Exponentials& exponentials, const Body& body) {
  constexpr int64_t kCount = Lane<T>::kCount, kBlock = 16 * kCount;
  Decays<typename Lane<T>::V> ahead[kBlock / kCount];
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t last = first + kBlock < end ? first + kBlock : end;
    for_vectors<T>(first, last,
                   [&](int64_t i, auto part) { ahead[(i - first) / kCount] = exponentials(i, part); });
    for_vectors<T>(first, last, [&](int64_t i, auto part) { body(i, part, ahead[(i - first) / kCount]); });
  }
}

// A location-major block is taken row after row in segments of so many locations, whose sums wait in the
// first cache for the next row. Float sums are carried over to double after each.
constexpr int64_t kSegment = 1024;

// A logit whose terms are exactly 0, beside another such: exp(-128) counts as 0. Fills the lanes past the
// channels.
constexpr float kNoLogit = -128.0f;

}  // namespace
}  // namespace frs::cpu::FRS_ISA
