// The transpose of a square block of logits in registers, and what reduces the lanes of several vectors, both
// with shuffles of two vectors.
#pragma once

#include <utility>

#include "../vec.h"

namespace frs::cpu::FRS_ISA {
namespace {

// body(0), body(1), ..., body(kCount - 1) without a loop, so that arrays which it indexes stay in registers.
template <class Body, int... kIndex>
FRS_INLINE void unrolled(std::integer_sequence<int, kIndex...>, const Body& body) {
  (body(kIndex), ...);
}
template <int kCount, class Body>
FRS_INLINE void unrolled(const Body& body) {
  unrolled(std::make_integer_sequence<int, kCount>(), body);
}

// Lane i of the result is lane index(i) of x and y, one after the other.
template <class Index>
FRS_INLINE Floats shuffle(Floats x, Floats y, const Index& index) {
#if defined(__clang__)  // makes shuffles of such a loop, which GCC does not
  Floats result;
  for (int i = 0; i < FRS_LANES; ++i)
    result[i] = index(i) < FRS_LANES ? x[index(i)] : y[index(i) - FRS_LANES];
  return result;
#else
  Ints lanes;
  for (int i = 0; i < FRS_LANES; ++i) lanes[i] = index(i);
  return __builtin_shuffle(x, y, lanes);
#endif
}

// Swaps, in every square of 2 kStep rows and lanes, the upper right quarter with the lower left one.
template <int kStep>
FRS_INLINE void swap_quarters(Floats& upper, Floats& lower) {
  const Floats x = upper, y = lower;
  upper = shuffle(x, y, [](int i) { return i & kStep ? FRS_LANES + i - kStep : i; });
  lower = shuffle(x, y, [](int i) { return i & kStep ? FRS_LANES + i : i + kStep; });
}

template <int kStep = FRS_LANES / 2>
FRS_INLINE void transpose(Floats (&rows)[FRS_LANES]) {
  unrolled<FRS_LANES>([&](int i) FRS_INLINE_LAMBDA {
    if ((i & kStep) == 0) swap_quarters<kStep>(rows[i], rows[i + kStep]);
  });
  if constexpr (kStep > 1) transpose<kStep / 2>(rows);
}
FRS_INLINE void transpose(double (&)[1]) {}

// Lane i of the result is op over the lanes of rows[i], as a binary tree: deterministic. Overwrites the rows.
template <int kStep = FRS_LANES / 2, class Op>
FRS_INLINE Floats reduced(Floats (&rows)[FRS_LANES], const Op& op) {
  unrolled<kStep>([&](int i) FRS_INLINE_LAMBDA {
    swap_quarters<kStep>(rows[i], rows[i + kStep]);
    rows[i] = op(rows[i], rows[i + kStep]);
  });
  if constexpr (kStep > 1) return reduced<kStep / 2>(rows, op);
  return rows[0];
}
template <class Op>
FRS_INLINE double reduced(double (&rows)[1], const Op&) {
  return rows[0];
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
