// Feature imitation: sum of factor S c (x - y)^2, and d/dx = 2 factor S c (x - y) in the same pass. Also the
// in-place scale.
#include <algorithm>

#include "../isa.h"
#include "../vec.h"

namespace frs::cpu::FRS_ISA {
namespace {

// x, y, g [R, length] with rows `b.*_stride` apart, length <= kSegment; S [length]; c [R] or nullptr.
template <int R, class Ts, class Tt, class S>
double imitation_rows(const Ts* x, const Tt* y, Ts* g, const S* weight, const S* c, int64_t length,
                      const Block& b) {
  using V = typename Lane<Ts>::V;
  const S factor = static_cast<S>(2 * b.factor);
  V total{};
  for_vectors<Ts>(0, length, [&](int64_t i, auto part) {
    const V w = load(weight + i, part);
    V squares{};
    for (int r = 0; r < R; ++r) {
      fetch(x + (R + r) * b.student_stride + i);
      fetch(y + (R + r) * b.teacher_stride + i);
      const V d = load(x + r * b.student_stride + i, part) - load(y + r * b.teacher_stride + i, part);
      const V cd = c == nullptr ? d : d * c[r];
      squares += cd * d;
      if (g != nullptr) put(g + r * b.grad_stride + i, part, w * factor * cd, b.non_temporal);
    }
    total += w * squares;
  });
  return b.factor * sum(total);
}

template <class Ts, class Tt, class S>
void location_major(const Ts* x, const Tt* y, Ts* g, const S* weight, const S* channel_weight, const Block& b,
                    double* sums) {
  constexpr int64_t kRows = 4;
  std::fill(sums, sums + ceil_div(b.locations, kSegment), 0.0);
  for (int64_t c = 0, rows; c < b.channels; c += rows) {
    rows = c + kRows <= b.channels ? kRows : 1;
    const auto run = rows == kRows ? imitation_rows<kRows, Ts, Tt, S> : imitation_rows<1, Ts, Tt, S>;
    const S* const cw = channel_weight == nullptr ? nullptr : channel_weight + c;
    for (int64_t l = 0; l < b.locations; l += kSegment) {
      auto at = [&](auto* p, int64_t stride) { return p == nullptr ? p : p + c * stride + l; };
      sums[l / kSegment] += run(at(x, b.student_stride), at(y, b.teacher_stride), at(g, b.grad_stride),
                                weight + l, cw, std::min(kSegment, b.locations - l), b);
    }
  }
}

// x, y, g [locations, channels] with locations `b.*_stride` apart; S [locations]; c [channels] or nullptr.
template <class Ts, class Tt, class S>
double channel_major(const Ts* x, const Tt* y, Ts* g, const S* weight, const S* c, const Block& b) {
  using V = typename Lane<Ts>::V;
  double total = 0.0;
  for (int64_t l = 0; l < b.locations; ++l) {
    const S w = weight[l], factor = w * static_cast<S>(2 * b.factor);
    V squares{};
    for_vectors<Ts>(0, b.channels, [&](int64_t i, auto part) {
      const V d = load(x + i, part) - load(y + i, part);
      const V cd = c == nullptr ? d : d * load(c + i, part);
      squares += cd * d;
      if (g != nullptr) put(g + i, part, factor * cd, b.non_temporal);
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
    using S = typename Lane<Ts>::Scalar;
    const Ts* x = static_cast<const Ts*>(b.student);
    const Tt* y = static_cast<const Tt*>(b.teacher);
    Ts* g = static_cast<Ts*>(b.grad);
    const S* weight = static_cast<const S*>(b.mask);
    const S* c = static_cast<const S*>(b.channel_weight);
    if (b.channel_major)
      *sums = channel_major(x, y, g, weight, c, b);
    else
      location_major(x, y, g, weight, c, b, sums);
  });
  if (b.non_temporal) stream_fence();
}

void scale(void* data, int64_t size, DType type, double factor) {
  with_types(type, type == DType::f64 ? DType::f64 : DType::f32, [&](auto* element, auto*) {
    using T = std::remove_pointer_t<decltype(element)>;
    T* values = static_cast<T*>(data);
    const auto f = static_cast<typename Lane<T>::Scalar>(factor);
    for_vectors<T>(0, size,
                   [&](int64_t i, auto part) { store(values + i, part, load(values + i, part) * f); });
  });
}

}  // namespace frs::cpu::FRS_ISA
