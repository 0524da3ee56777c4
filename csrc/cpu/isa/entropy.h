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

// What the terms of one vector of locations (or of one location's channels) add up to, each w times as much:
// partly in `sum`, which the caller may share among vectors, partly in the rest. PlainEntropy: each is linear
// + w log1p(exp(-|s|)); the logarithms of up to kMaxLogFactors terms are taken as one, of their product.
template <class V>
struct PlainEntropy {
  V product;

  FRS_INLINE V add(const Term<V>& x, V w, double, V& sum) {  // returns w times the slope by |s|
    const CrossEntropy<V> h = cross_entropy(x.size, x.apart, x.decays, w);
    sum += h.linear;
    product = log_product(product, h.exp_abs);
    return h.slope;
  }
  FRS_INLINE V rest(V w) const { return w * log1p(product); }
};

// The same with the factor |sigmoid(s) - sigmoid(t)|^beta, beta > 0.
template <class V>
struct FocalEntropy {
  using Scalar = std::conditional_t<std::is_same_v<V, double>, double, float>;

  FRS_INLINE V add(const Term<V>& x, V w, double beta, V& sum) {
    const CrossEntropy<V> h = cross_entropy(x.size, x.apart, x.decays, V{} + 1.0f);
    const Focal<V> f = focal(h, static_cast<Scalar>(beta));
    sum += w * f.value;
    return w * f.slope;
  }
  FRS_INLINE V rest(V) const { return V{}; }
};

// A logit whose terms are exactly 0, beside another such: exp(-128) counts as 0. Fills the lanes past the
// channels.
constexpr float kNoLogit = -128.0f;

// What the processor is asked for while it reads a block of logits. Follows: nothing, as what comes next lies
// right behind, where it looks by itself.
struct Follows {
  FRS_INLINE void ask(int64_t) const {}
  template <class Ts, class Tt>
  FRS_INLINE Follows after(int64_t, int64_t, const Ts*, const Tt*) const {
    return {};
  }
};
// Rows: what is read `ahead` elements later, in this row or in the next one, which lies at *_stride.
template <class Ts, class Tt>
struct Later {
  const Ts* s;
  const Tt* t;
  FRS_INLINE void ask(int64_t i) const {
    fetch_once(s + i);
    fetch_once(t + i);
  }
};
struct Rows {
  int64_t ahead, student_stride, teacher_stride;

  // s, t: element `first` of a row that ends at `end`, in whole blocks.
  template <class Ts, class Tt>
  FRS_INLINE Later<Ts, Tt> after(int64_t first, int64_t end, const Ts* s, const Tt* t) const {
    const int64_t later = ahead < end ? ahead : end;
    if (first + later < end) return {s + later, t + later};
    return {s + later + student_stride - end, t + later + teacher_stride - end};
  }
};

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

  // s, t [length <= kSize]
  template <class After>
  FRS_APART void fill(const Ts* s, const Tt* t, int64_t length, const After after) {
    for_steps<kStep>(0, length, [&](int64_t i, auto part) {
      after.ask(i);
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
// block: first all exponentials of a block, then the rest of it, then done(i) with the block's first element.
// Their chain of dependent instructions is half of an element's; apart, more elements fit into what the
// processor looks ahead.
template <class Ts, class Tt, class Next, class Body, class Done>
FRS_INLINE void for_logits(const Ts* s, const Tt* t, int64_t length, const Next& next, const Body& body,
                           const Done& done) {
  Ahead<Ts, Tt> ahead;
  const int64_t end = round_up(length, ahead.kSize);
  for (int64_t first = 0; first < length; first += ahead.kSize, s += ahead.kSize, t += ahead.kSize) {
    const int64_t count = first + ahead.kSize < length ? ahead.kSize : length - first;
    ahead.fill(s, t, count, next.after(first, end, s, t));
    for_steps<ahead.kStep>(0, count, [&](int64_t i, auto part) {
      const auto student = load_raw<ahead.N>(s + i, part, kNoLogit);
      const auto teacher = load_raw<ahead.N>(t + i, part, kNoLogit);
      body(first + i, part, student, teacher, ahead.terms(i, student, teacher));
    });
    done(first);
  }
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
