// The head term of one vector: cross-entropy against the teacher's sigmoid, and its slope.
#pragma once

#include "../isa.h"
#include "../vec.h"
#include "group.h"

namespace frs::cpu::FRS_ISA {
namespace {

// What one term is made of: |s|, apart(s, t) and the exponentials.
template <class V>
struct Term {
  V size, apart;
  Decays<V> decays;
};

// What the terms of one vector of locations (or of one location's channels) add up to, each w times as much.
// PlainEntropy: each is linear + w log1p(exp(-|s|)); the logarithms of up to kMaxTerms terms are taken as
// one, of their product.
template <class V>
struct PlainEntropy {
  V linear{}, product{};

  FRS_INLINE V add(const Term<V>& x, V w, double) {  // returns w times the slope by |s|
    const CrossEntropy<V> h = cross_entropy(x.size, x.apart, x.decays, w);
    linear += h.linear;
    product = log_product(product, h.exp_abs);
    return h.slope;
  }
  FRS_INLINE V total(V w) const { return linear + w * log1p(product); }
};

// The same with the factor |sigmoid(s) - sigmoid(t)|^beta, beta > 0.
template <class V>
struct FocalEntropy {
  using Scalar = std::conditional_t<std::is_same_v<V, double>, double, float>;
  V value{};

  FRS_INLINE V add(const Term<V>& x, V w, double beta) {
    const CrossEntropy<V> h = cross_entropy(x.size, x.apart, x.decays, V{} + 1.0f);
    const Focal<V> f = focal(h, static_cast<Scalar>(beta));
    value += f.value;
    return w * f.slope;
  }
  FRS_INLINE V total(V w) const { return w * value; }
};

// A logit whose terms are exactly 0, beside another such: exp(-128) counts as 0. Fills the lanes past the
// channels.
constexpr float kNoLogit = -128.0f;

// Of a loop whose constants would take the registers of the one that follows, where there are only 16: the
// compiler leaves the sums of that one in memory.
#if defined(__AVX512F__) || defined(__aarch64__)
#define FRS_APART FRS_INLINE
#else
#define FRS_APART __attribute__((noinline))
#endif

// exp(-|s|) and exp(-|t|) of the first logits of a row, groups apart.
template <class Ts, class Tt>
struct Ahead {
  using S = typename Lane<Ts>::Scalar;
  static constexpr int N = kTogether<Ts, Tt>;
  static constexpr int64_t kCount = Lane<Ts>::kCount, kStep = N * kCount, kSize = 16 * kStep;
  alignas(64) S student[kSize], teacher[kSize];

  // s, t [length <= kSize]. ask(i) fetches what is read later than this row.
  template <class Ask>
  FRS_APART void fill(const Ts* s, const Tt* t, int64_t length, const Ask ask) {
    for_steps<kStep>(0, length, [&](int64_t i, auto part) {
      ask(i);
      const auto from_s = negative_abs_of(load_raw<N>(s + i, part, kNoLogit));
      const auto from_t = negative_abs_of(load_raw<N>(t + i, part, kNoLogit));
      for (int j = 0; j < N; ++j) store(student + i + j * kCount, exp_nonpositive(from_s.v[j]));
      for (int j = 0; j < N; ++j) store(teacher + i + j * kCount, exp_nonpositive(from_t.v[j]));
    });
  }
  template <class Raw>
  FRS_INLINE auto terms(int64_t i, Raw s, decltype(s) t) const {
    const auto size = abs_of(s), sign = apart_of(s, t);
    Group<Term<typename Lane<Ts>::V>, N> terms;
    for (int j = 0; j < N; ++j) {
      const int64_t at = i + j * kCount;
      terms.v[j] = {size.v[j], sign.v[j], {load(student + at), load(teacher + at)}};
    }
    return terms;
  }
};

// body(i, part, s, t, terms) over the groups of a row of logits, s and t as they lie in memory, block by
// block: first all exponentials of a block, then the rest of it. Their chain of dependent instructions is
// half of an element's; apart, more elements fit into what the processor looks ahead.
template <class Ts, class Tt, class Ask, class Body>
FRS_INLINE void for_logits(const Ts* s, const Tt* t, int64_t length, const Ask& ask, const Body& body) {
  Ahead<Ts, Tt> ahead;
  for (int64_t first = 0; first < length; first += ahead.kSize, s += ahead.kSize, t += ahead.kSize) {
    const int64_t count = first + ahead.kSize < length ? ahead.kSize : length - first;
    ahead.fill(s, t, count, [&](int64_t i) { ask(first + i); });
    for_steps<ahead.kStep>(0, count, [&](int64_t i, auto part) {
      const auto student = load_raw<ahead.N>(s + i, part, kNoLogit);
      const auto teacher = load_raw<ahead.N>(t + i, part, kNoLogit);
      body(first + i, part, student, teacher, ahead.terms(i, student, teacher));
    });
  }
}

// The row `row` of NCHW logits: the next one is `*_stride` away, where nothing else would look for it.
template <class Ts, class Tt, class Body>
FRS_INLINE void for_logit_row(const Ts* s, const Tt* t, int64_t row, int64_t length, const Block& b,
                              const Body& body) {
  s += row * b.student_stride;
  t += row * b.teacher_stride;
  const auto ask = [next_s = s + b.student_stride, next_t = t + b.teacher_stride](int64_t i) {
    fetch(next_s + i);
    fetch(next_t + i);
  };
  for_logits(s, t, length, ask, body);
}

// Some logits of one location of channels_last: the next ones follow at once, and the processor has asked for
// them already.
template <class Ts, class Tt, class Body>
FRS_INLINE void for_logit_channels(const Ts* s, const Tt* t, int64_t length, const Body& body) {
  for_logits(s, t, length, [](int64_t) {}, body);
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
