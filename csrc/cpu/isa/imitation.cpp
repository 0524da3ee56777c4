// Feature imitation: sum of S c (x - y)^2, and d/dx = 2 factor S c (x - y) in the same pass. Also the
// in-place scale.
#include "../isa.h"
#include "../vec.h"

namespace frs::cpu::FRS_ISA {
namespace {

constexpr int64_t kSegment = 1024;  // float sums are carried over to double after so many locations

// x, y, g [R, locations] with rows `b.*_stride` apart; S [locations]; c [R] or nullptr.
template <int R, class Ts, class Tt, class S>
double imitation_rows(const Ts* x, const Tt* y, Ts* g, const S* weight, const S* c, const Block& b) {
  using V = typename Lane<Ts>::V;
  const S factor = static_cast<S>(2 * b.factor);
  double total = 0.0;
  for (int64_t begin = 0; begin < b.locations; begin += kSegment) {
    const int64_t end = begin + kSegment < b.locations ? begin + kSegment : b.locations;
    V segment{};
    for_vectors<Ts>(begin, end, [&](int64_t i, auto part) {
      const V w = load(weight + i, part);
      V squares{};
      for (int r = 0; r < R; ++r) {
        const V d = load(x + r * b.student_stride + i, part) - load(y + r * b.teacher_stride + i, part);
        const V cd = c == nullptr ? d : d * c[r];
        squares += cd * d;
        if (g != nullptr) put(g + r * b.grad_stride + i, part, w * factor * cd, b.streamed);
      }
      segment += w * squares;
    });
    total += sum(segment);
  }
  return total;
}

template <class Ts, class Tt, class S>
double location_major(const Ts* x, const Tt* y, Ts* g, const S* weight, const S* channel_weight,
                      const Block& b) {
  double total = 0.0;
  int64_t c = 0;
  auto row = [&](auto* p, int64_t stride) { return p == nullptr ? p : p + c * stride; };
  for (; c + 4 <= b.channels; c += 4)
    total += imitation_rows<4>(row(x, b.student_stride), row(y, b.teacher_stride), row(g, b.grad_stride),
                               weight, row(channel_weight, 1), b);
  for (; c < b.channels; ++c)
    total += imitation_rows<1>(row(x, b.student_stride), row(y, b.teacher_stride), row(g, b.grad_stride),
                               weight, row(channel_weight, 1), b);
  return total;
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
      if (g != nullptr) put(g + i, part, factor * cd, b.streamed);
    });
    total += w * sum(squares);
    x += b.student_stride;
    y += b.teacher_stride;
    if (g != nullptr) g += b.grad_stride;
  }
  return total;
}

}  // namespace

double imitation(const Block& b) {
  const double total = with_types(b.student_type, b.teacher_type, [&](auto* student, auto* teacher) {
    using Ts = std::remove_pointer_t<decltype(student)>;
    using Tt = std::remove_pointer_t<decltype(teacher)>;
    using S = typename Lane<Ts>::Scalar;
    const Ts* x = static_cast<const Ts*>(b.student);
    const Tt* y = static_cast<const Tt*>(b.teacher);
    Ts* g = static_cast<Ts*>(b.grad);
    const S* weight = static_cast<const S*>(b.weight);
    const S* c = static_cast<const S*>(b.channel_weight);
    return b.channel_major ? channel_major(x, y, g, weight, c, b) : location_major(x, y, g, weight, c, b);
  });
  if (b.streamed) stream_fence();
  return total;
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
