// The imitation term in the loss pass: the sum of factor S c (x - y)^2 and its gradient 2 factor S c (x - y).
// Also the in-place multiplication of gradients by a factor.
#include <algorithm>

#include "../isa.h"
#include "../settings.h"
#include "../vec.h"

namespace frs::cpu::FRS_ISA {
namespace {

// x, y, g [R, length] with row strides `b.*_stride`, length <= kSegment; mask [length]; c [R] or nullptr.
template <int R, class Ts, class Tt, class S>
double add_rows(const Ts* x, const Tt* y, Ts* g, const S* mask, const S* c, int64_t length, const Block& b) {
  using V = typename VectorOf<Ts>::V;
  const S factor = static_cast<S>(2 * b.factor);
  const int64_t ahead = R * settings().prefetch_rows;
  V total{};
  for_vectors<Ts>(0, length, [&](int64_t i, auto extent) {
    const V w = load(mask + i, extent);
    V squares{};
    for (int r = 0; r < R; ++r) {
      prefetch_all(x + (ahead + r) * b.student_stride + i);
      prefetch_all(y + (ahead + r) * b.teacher_stride + i);
      const V d = load(x + r * b.student_stride + i, extent) - load(y + r * b.teacher_stride + i, extent);
      const V cd = c == nullptr ? d : d * c[r];
      squares += cd * d;
      if (g != nullptr) store_gradient(g + r * b.grad_stride + i, extent, w * factor * cd, b.non_temporal);
    }
    total += w * squares;
  });
  return b.factor * sum(total);
}

// x, y, g [channels, locations] with row strides `b.*_stride`; mask [locations]; c [channels] or nullptr.
// Processes four rows at a time, so that the mask is loaded once for four.
template <class Ts, class Tt, class S>
void location_major(const Ts* x, const Tt* y, Ts* g, const S* mask, const S* c, const Block& b,
                    double* sums) {
  constexpr int64_t kRows = 4;
  std::fill(sums, sums + ceil_div(b.locations, kSegment), 0.0);
  for (int64_t row = 0, rows; row < b.channels; row += rows) {
    rows = row + kRows <= b.channels ? kRows : 1;
    const auto add = rows == kRows ? add_rows<kRows, Ts, Tt, S> : add_rows<1, Ts, Tt, S>;
    const S* const c_rows = c == nullptr ? nullptr : c + row;
    for (int64_t l = 0; l < b.locations; l += kSegment) {
      auto at = [&](auto* p, int64_t stride) { return p == nullptr ? p : p + row * stride + l; };
      sums[l / kSegment] += add(at(x, b.student_stride), at(y, b.teacher_stride), at(g, b.grad_stride),
                                mask + l, c_rows, std::min(kSegment, b.locations - l), b);
    }
  }
}

// x, y, g [locations, channels] with row strides `b.*_stride`; mask [locations]; c [channels] or nullptr.
template <class Ts, class Tt, class S>
double channel_major(const Ts* x, const Tt* y, Ts* g, const S* mask, const S* c, const Block& b) {
  using V = typename VectorOf<Ts>::V;
  double total = 0.0;
  for (int64_t l = 0; l < b.locations; ++l) {
    const S w = mask[l], factor = w * static_cast<S>(2 * b.factor);
    V squares{};
    for_vectors<Ts>(0, b.channels, [&](int64_t i, auto extent) {
      const V d = load(x + i, extent) - load(y + i, extent);
      const V cd = c == nullptr ? d : d * load(c + i, extent);
      squares += cd * d;
      if (g != nullptr) store_gradient(g + i, extent, factor * cd, b.non_temporal);
    });
    total += w * sum(squares);
    x += b.student_stride;
    y += b.teacher_stride;
    if (g != nullptr) g += b.grad_stride;
  }
  return b.factor * total;
}

}  // namespace

void imitation(const Block& b, double* sums) {
  with_types(b.student_type, b.teacher_type, [&](auto* student, auto* teacher) {
    using Ts = std::remove_pointer_t<decltype(student)>;
    using Tt = std::remove_pointer_t<decltype(teacher)>;
    using S = typename VectorOf<Ts>::Scalar;
    const Ts* x = static_cast<const Ts*>(b.student);
    const Tt* y = static_cast<const Tt*>(b.teacher);
    Ts* g = static_cast<Ts*>(b.grad);
    const S* mask = static_cast<const S*>(b.mask);
    const S* c = static_cast<const S*>(b.channel_weight);
    if (b.channel_major)
      *sums = channel_major(x, y, g, mask, c, b);
    else
      location_major(x, y, g, mask, c, b, sums);
  });
  if (b.non_temporal) non_temporal_fence();
}

void scale(void* data, int64_t size, DType type, double factor) {
  with_types(type, type == DType::f64 ? DType::f64 : DType::f32, [&](auto* element, auto*) {
    using T = std::remove_pointer_t<decltype(element)>;
    T* values = static_cast<T*>(data);
    const auto f = static_cast<typename VectorOf<T>::Scalar>(factor);
    for_vectors<T>(0, size,
                   [&](int64_t i, auto extent) { store(values + i, extent, load(values + i, extent) * f); });
  });
}

}  // namespace frs::cpu::FRS_ISA
