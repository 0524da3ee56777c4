// Head distillation: sum of S BCE(s, sigmoid(T)), and d/ds = factor S (sigmoid(s) - sigmoid(T)) in the same
// pass.
#include "../isa.h"
#include "../vec.h"
#include "entropy.h"

namespace frs::cpu::FRS_ISA {
namespace {

constexpr int64_t kSegment = 1024;  // float sums are carried over to double after so many locations

// s, t, g [rows, locations] with rows `b.*_stride` apart, rows <= kRows; S [locations].
template <template <class> class Entropy, class Ts, class Tt, class S>
double head_rows(const Ts* s, const Tt* t, Ts* g, const S* weight, int64_t rows, const Block& b) {
  using V = typename Lane<Ts>::V;
  const S factor = static_cast<S>(b.factor);
  double total = 0.0;
  for (int64_t begin = 0; begin < b.locations; begin += kSegment) {
    const int64_t end = begin + kSegment < b.locations ? begin + kSegment : b.locations;
    V segment{};
    for_vectors<Ts>(begin, end, [&](int64_t i, auto part) {
      const V w = load(weight + i, part), slope = w * factor;
      Entropy<V> entropy(b.beta);
      const Ts* student = s + i;
      const Tt* teacher = t + i;
      Ts* grad = g + i;
      for (int64_t r = 0; r < rows; ++r) {
        const V gradient = entropy.add(load(student, part), load(teacher, part));
        if (g != nullptr) put(grad, part, slope * gradient, b.streamed);
        student += b.student_stride;
        teacher += b.teacher_stride;
        grad += b.grad_stride;
      }
      segment += w * entropy.total();
    });
    total += sum(segment);
  }
  return total;
}

template <template <class> class Entropy, class Ts, class Tt, class S>
double location_major(const Ts* s, const Tt* t, Ts* g, const S* weight, const Block& b) {
  double total = 0.0;
  for (int64_t c = 0; c < b.channels; c += kRows) {
    const int64_t rows = c + kRows < b.channels ? kRows : b.channels - c;
    total += head_rows<Entropy>(s + c * b.student_stride, t + c * b.teacher_stride,
                                g == nullptr ? g : g + c * b.grad_stride, weight, rows, b);
  }
  return total;
}

// s, t, g [locations, channels] with locations `b.*_stride` apart; S [locations].
template <template <class> class Entropy, class Ts, class Tt, class S>
double channel_major(const Ts* s, const Tt* t, Ts* g, const S* weight, const Block& b) {
  using V = typename Lane<Ts>::V;
  constexpr int64_t kChunk = Entropy<V>::kMaxTerms * Lane<Ts>::kCount;
  double total = 0.0;
  for (int64_t l = 0; l < b.locations; ++l) {
    const S w = weight[l], factor = w * static_cast<S>(b.factor);
    V location{};
    for (int64_t begin = 0; begin < b.channels; begin += kChunk) {
      const int64_t end = begin + kChunk < b.channels ? begin + kChunk : b.channels;
      Entropy<V> entropy(b.beta);
      for_vectors<Ts>(begin, end, [&](int64_t i, auto part) {
        const V gradient = entropy.add(load(s + i, part, kNoLogit), load(t + i, part, kNoLogit));
        if (g != nullptr) put(g + i, part, factor * gradient, b.streamed);
      });
      location += entropy.total();
    }
    total += w * sum(location);
    s += b.student_stride;
    t += b.teacher_stride;
    if (g != nullptr) g += b.grad_stride;
  }
  return total;
}

}  // namespace

double head(const Block& b) {
  const double total = with_types(b.student_type, b.teacher_type, [&](auto* student, auto* teacher) {
    using Ts = std::remove_pointer_t<decltype(student)>;
    using Tt = std::remove_pointer_t<decltype(teacher)>;
    const Ts* s = static_cast<const Ts*>(b.student);
    const Tt* t = static_cast<const Tt*>(b.teacher);
    Ts* g = static_cast<Ts*>(b.grad);
    const auto* weight = static_cast<const typename Lane<Ts>::Scalar*>(b.weight);
    if (b.beta > 0)
      return b.channel_major ? channel_major<FocalEntropy>(s, t, g, weight, b)
                             : location_major<FocalEntropy>(s, t, g, weight, b);
    return b.channel_major ? channel_major<PlainEntropy>(s, t, g, weight, b)
                           : location_major<PlainEntropy>(s, t, g, weight, b);
  });
  if (b.streamed) stream_fence();
  return total;
}

}  // namespace frs::cpu::FRS_ISA
