// Head distillation: sum of S BCE(s, sigmoid(T)), and d/ds = factor S (sigmoid(s) - sigmoid(T)) in the same
// pass.
#include "../isa.h"
#include "../vec.h"
#include "entropy.h"

namespace frs::cpu::FRS_ISA {
namespace {

// s, t, g [rows, locations] with rows `b.*_stride` apart, rows <= kMaxTerms; S [locations].
template <template <class> class Entropy, class Ts, class Tt, class S>
double head_rows(const Ts* s, const Tt* t, Ts* g, const S* weight, int64_t rows, const Block& b) {
  using V = typename Lane<Ts>::V;
  constexpr int64_t kCount = Lane<Ts>::kCount;
  const S factor = static_cast<S>(b.factor);
  double total = 0.0;
  for (int64_t begin = 0; begin < b.locations; begin += kSegment) {
    const int64_t length = begin + kSegment < b.locations ? kSegment : b.locations - begin;
    const S* w = weight + begin;
    Entropy<V> entropies[kSegment / kCount];
    for (int64_t r = 0; r < rows; ++r) {
      const Ts* student = s + r * b.student_stride + begin;
      const Tt* teacher = t + r * b.teacher_stride + begin;
      Ts* grad = g + r * b.grad_stride + begin;
      for_decays<Ts>(
          0, length,
          [&](int64_t i, auto part) {
            __builtin_prefetch(student + b.student_stride + i);
            __builtin_prefetch(teacher + b.teacher_stride + i);
            return decays(load(student + i, part), load(teacher + i, part));
          },
          [&](int64_t i, auto part, const Decays<V>& e) {
            const V gradient =
                entropies[i / kCount].add(load(student + i, part), load(teacher + i, part), e, b.beta);
            if (g != nullptr) put(grad + i, part, load(w + i, part) * factor * gradient, b.streamed);
          });
    }
    V segment{};
    for_vectors<Ts>(0, length, [&](int64_t i, auto part) {
      segment += load(w + i, part) * entropies[i / kCount].total();
    });
    total += sum(segment);
  }
  return total;
}

template <template <class> class Entropy, class Ts, class Tt, class S>
double location_major(const Ts* s, const Tt* t, Ts* g, const S* weight, const Block& b) {
  double total = 0.0;
  for (int64_t c = 0; c < b.channels; c += kMaxTerms) {
    const int64_t rows = c + kMaxTerms < b.channels ? kMaxTerms : b.channels - c;
    total += head_rows<Entropy>(s + c * b.student_stride, t + c * b.teacher_stride,
                                g == nullptr ? g : g + c * b.grad_stride, weight, rows, b);
  }
  return total;
}

// s, t, g [locations, channels] with locations `b.*_stride` apart; S [locations].
template <template <class> class Entropy, class Ts, class Tt, class S>
double channel_major(const Ts* s, const Tt* t, Ts* g, const S* weight, const Block& b) {
  using V = typename Lane<Ts>::V;
  constexpr int64_t kChunk = kMaxTerms * Lane<Ts>::kCount;
  double total = 0.0;
  for (int64_t l = 0; l < b.locations; ++l) {
    const S w = weight[l], factor = w * static_cast<S>(b.factor);
    V location{};
    for (int64_t begin = 0; begin < b.channels; begin += kChunk) {
      const int64_t end = begin + kChunk < b.channels ? begin + kChunk : b.channels;
      Entropy<V> entropy;
      for_decays<Ts>(
          begin, end,
          [&](int64_t i, auto part) {
            return decays(load(s + i, part, kNoLogit), load(t + i, part, kNoLogit));
          },
          [&](int64_t i, auto part, const Decays<V>& e) {
            const V gradient =
                entropy.add(load(s + i, part, kNoLogit), load(t + i, part, kNoLogit), e, b.beta);
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
