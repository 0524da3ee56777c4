// The head term of one vector: cross-entropy against the teacher's sigmoid, and its gradient.
#pragma once

#include "../isa.h"
#include "../vec.h"
#include "group.h"

namespace frs::cpu::FRS_ISA {
namespace {

// What the terms of one vector of locations (or of one location's channels) add up to. PlainEntropy: each is
// linear + log1p(exp(-|s|)); the logarithms of up to kMaxTerms terms are taken as one, of their product.
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

// A logit whose terms are exactly 0, beside another such: exp(-128) counts as 0. Fills the lanes past the
// channels.
constexpr float kNoLogit = -128.0f;

// body(i, part, s, t, decays) over the groups of a row of logits, block by block: first all exponentials of a
// block, then the rest of it. Their chain of dependent instructions is half of an element's; apart, more
// elements fit into what the processor looks ahead. fetch_next(i) asks for what is read afterwards.
template <class Ts, class Tt, class FetchNext, class Body>
FRS_INLINE void for_logits(const Ts* s, const Tt* t, int64_t length, const FetchNext& fetch_next,
                           const Body& body) {
  using V = typename Lane<Ts>::V;
  constexpr int N = kTogether<Ts, Tt>;
  constexpr int64_t kGroups = 16, kStep = N * Lane<Ts>::kCount;
  Group<Decays<V>, N> ahead[kGroups];
  for (int64_t first = 0; first < length; first += kGroups * kStep) {
    const int64_t last = first + kGroups * kStep < length ? first + kGroups * kStep : length;
    for_steps<kStep>(first, last, [&](int64_t i, auto part) {
      fetch_next(i);
      const auto student = load_group<N>(s + i, part, kNoLogit);
      const auto teacher = load_group<N>(t + i, part, kNoLogit);
      for (int j = 0; j < N; ++j) ahead[(i - first) / kStep].v[j] = decays(student.v[j], teacher.v[j]);
    });
    for_steps<kStep>(first, last, [&](int64_t i, auto part) {
      body(i, part, load_group<N>(s + i, part, kNoLogit), load_group<N>(t + i, part, kNoLogit),
           ahead[(i - first) / kStep]);
    });
  }
}

// The row `row` of NCHW logits: the next one is `*_stride` away, where nothing else would look for it.
template <class Ts, class Tt, class Body>
FRS_INLINE void for_logit_row(const Ts* s, const Tt* t, int64_t row, int64_t length, const Block& b,
                              const Body& body) {
  s += row * b.student_stride;
  t += row * b.teacher_stride;
  const auto fetch_next = [&](int64_t i) {
    fetch(s + b.student_stride + i);
    fetch(t + b.teacher_stride + i);
  };
  for_logits(s, t, length, fetch_next, body);
}

// Some logits of one location of channels_last: the next ones follow at once, and the processor has asked for
// them already.
template <class Ts, class Tt, class Body>
FRS_INLINE void for_logit_channels(const Ts* s, const Tt* t, int64_t length, const Body& body) {
  for_logits(s, t, length, [](int64_t) {}, body);
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
