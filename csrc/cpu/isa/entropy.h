// The head term of one vector: the cross-entropy against the teacher's sigmoid and its slope, and the loop
// that brings the logits of a row into it.
#pragma once

#include <algorithm>

#include "../isa.h"
#include "../settings.h"
#include "../vec.h"
#include "group.h"

namespace frs::cpu::FRS_ISA {
namespace {

// One pair of logits (s, t) per lane, prepared for the cross-entropy.
template <class V>
struct LogitPair {
  V abs_s, signs_differ;
  ExpPair<V> exps;
};

// Accumulates w times the cross-entropy: linear + w log1p(exp(-|s|)) for each pair. The linear parts go into
// `sum`, which several accumulators may share. The logarithms of up to kMaxLogFactors pairs are one
// logarithm, of their product; log_part gives it.
template <class V>
struct BceAccumulator {
  V product;

  // Returns w times the slope by |s|.
  FRS_INLINE V add(const LogitPair<V>& x, V w, double, V& sum) {
    const CrossEntropy<V> h = cross_entropy(x.abs_s, x.signs_differ, x.exps, w);
    sum += h.linear;
    product = log_product(product, h.exp_abs);
    return h.slope;
  }
  // The same without the slope, which needs the student's sigmoid.
  FRS_INLINE void add_value(const LogitPair<V>& x, V w, double, V& sum) {
    sum += cross_entropy_linear<V>(x.abs_s, x.signs_differ, x.exps.teacher, w / (1.0f + x.exps.teacher));
    product = log_product(product, x.exps.student);
  }
  FRS_INLINE V log_part(V w) const { return w * log1p(product); }
};

// The same with the factor |sigmoid(s) - sigmoid(t)|^beta, beta > 0.
template <class V>
struct FocalAccumulator {
  using Scalar = std::conditional_t<std::is_same_v<V, double>, double, float>;

  FRS_INLINE V add(const LogitPair<V>& x, V w, double beta, V& sum) {
    const CrossEntropy<V> h = cross_entropy(x.abs_s, x.signs_differ, x.exps, V{} + 1.0f);
    const Focal<V> f = focal(h, static_cast<Scalar>(beta));
    sum += w * f.value;
    return w * f.slope;
  }
  FRS_INLINE void add_value(const LogitPair<V>& x, V w, double beta, V& sum) { add(x, w, beta, sum); }
  FRS_INLINE V log_part(V) const { return V{}; }
};

// Fills the lanes past the end of a row. A pair of these contributes exactly 0, as exp(-128) counts as 0.
constexpr float kPaddingLogit = -128.0f;

// How a loop prefetches what it will read: prefetch<kind>(p) for every group.
enum class Prefetch { none, into_l1, into_all_caches };
template <Prefetch kKind>
FRS_INLINE void prefetch(const void* p) {
  if constexpr (kKind == Prefetch::into_l1) prefetch_nta(p);
  if constexpr (kKind == Prefetch::into_all_caches) prefetch_all(p);
}

// Which logits for_logits prefetches: those `distance` elements later in a row, or at the start of the next
// row. A row has `length` elements, rounded up to whole blocks, and the next row begins *_skip elements after
// that. In rows that follow each other in memory, every element is in the same row.
struct Ahead {
  int64_t distance, length, student_skip, teacher_skip;
  Prefetch kind;

  template <int64_t kBlock>
  static Ahead of_rows(int64_t distance, const Block& b) {
    const int64_t length = round_up(b.locations, kBlock);
    return {std::min(distance, length), length, b.student_stride - length, b.teacher_stride - length,
            kind_of(distance)};
  }
  static Ahead of_channels_last() {
    const int64_t distance = settings().prefetch_channels_last;
    return {distance, INT64_MAX, 0, 0, kind_of(distance)};
  }
  static Prefetch kind_of(int64_t distance) {
    if (distance == 0) return Prefetch::none;
    return settings().prefetch_into_l2 ? Prefetch::into_all_caches : Prefetch::into_l1;
  }
  // Elements from a block to what is prefetched with it; `first` is the block's first element in its row.
  FRS_INLINE int64_t from(int64_t first, int64_t skip) const {
    return distance + (first < length - distance ? 0 : skip);
  }
};

// Keeps a loop out of line on targets with 16 vector registers: inlined, its constants make the next loop
// spill its accumulators.
#if defined(__AVX512F__) || defined(__aarch64__)
#define FRS_NOINLINE_WITH_16_REGISTERS FRS_INLINE
#else
#define FRS_NOINLINE_WITH_16_REGISTERS __attribute__((noinline))
#endif

// exp(-|s|) and exp(-|t|) of a block of logits, deinterleaved.
template <class Ts, class Tt>
struct ExpBlock {
  using S = typename VectorOf<Ts>::Scalar;
  static constexpr int N = kVectorsPerLoad<Ts, Tt>;
  static constexpr int64_t kLanes = VectorOf<Ts>::kLanes, kStep = N * kLanes, kSize = 16 * kStep;
  alignas(64) S student[kSize], teacher[kSize];

  // s, t [length], length <= kSize; s_ahead, t_ahead is what to prefetch meanwhile.
  template <Prefetch kKind>
  FRS_NOINLINE_WITH_16_REGISTERS void fill(const Ts* s, const Tt* t, int64_t length, const Ts* s_ahead,
                                           const Tt* t_ahead) {
    for_steps<kStep>(0, length, [&](int64_t i, auto extent) {
      prefetch<kKind>(s_ahead + i);
      prefetch<kKind>(t_ahead + i);
      const auto minus_abs_s = negative_abs_of(load_raw<N>(s + i, extent, kPaddingLogit));
      const auto minus_abs_t = negative_abs_of(load_raw<N>(t + i, extent, kPaddingLogit));
      for (int j = 0; j < N; ++j) store(student + i + j * kLanes, exp_nonpositive(minus_abs_s.v[j]));
      for (int j = 0; j < N; ++j) store(teacher + i + j * kLanes, exp_nonpositive(minus_abs_t.v[j]));
    });
  }
  template <class Raw>
  FRS_INLINE auto pairs(int64_t i, Raw s, decltype(s) t) const {
    const auto abs_s = abs_of(s), differ = signs_differ_of(s, t);
    Group<LogitPair<typename VectorOf<Ts>::V>, N> pairs;
    for (int j = 0; j < N; ++j) {
      const int64_t at = i + j * kLanes;
      pairs.v[j] = {abs_s.v[j], differ.v[j], {load(student + at), load(teacher + at)}};
    }
    return pairs;
  }
};

// Calls body(i, extent, s, t, pairs) for each group of a row of logits, s and t raw, and block_done(i) after
// each block, whose first element is i. A block takes two loops, its exponentials first: each loop has half
// of the chain of dependent instructions, so that the out-of-order window holds more elements.
template <class Ts, class Tt, class Body, class BlockDone>
FRS_INLINE void for_logits(const Ts* s, const Tt* t, int64_t length, const Ahead& ahead, const Body& body,
                           const BlockDone& block_done) {
  ExpBlock<Ts, Tt> exps;
  for (int64_t first = 0; first < length; first += exps.kSize, s += exps.kSize, t += exps.kSize) {
    const int64_t count = first + exps.kSize < length ? exps.kSize : length - first;
    const Ts* const s_ahead = s + ahead.from(first, ahead.student_skip);
    const Tt* const t_ahead = t + ahead.from(first, ahead.teacher_skip);
    if (ahead.kind == Prefetch::none)
      exps.template fill<Prefetch::none>(s, t, count, s, t);
    else if (ahead.kind == Prefetch::into_l1)
      exps.template fill<Prefetch::into_l1>(s, t, count, s_ahead, t_ahead);
    else
      exps.template fill<Prefetch::into_all_caches>(s, t, count, s_ahead, t_ahead);
    for_steps<exps.kStep>(0, count, [&](int64_t i, auto extent) {
      const auto student = load_raw<exps.N>(s + i, extent, kPaddingLogit);
      const auto teacher = load_raw<exps.N>(t + i, extent, kPaddingLogit);
      body(first + i, extent, student, teacher, exps.pairs(i, student, teacher));
    });
    block_done(first);
  }
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
