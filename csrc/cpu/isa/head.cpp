// Head distillation: sum of factor S BCE(s, sigmoid(T)), and d/ds = factor S (sigmoid(s) - sigmoid(T)) in the
// same pass.
#include <algorithm>

#include "../isa.h"
#include "../vec.h"
#include "entropy.h"

namespace frs::cpu::FRS_ISA {
namespace {

// A NaN of any kind as the one that arithmetic makes (see put_flipped).
template <class S>
FRS_INLINE S plain_nan(S x) {
  return x == x ? x : static_cast<S>(NAN);
}

// w = S factor of a segment, apart as the groups are.
template <class S, int N, int64_t kCount>
struct Weights {
  S values[kSegment];

  Weights(const S* weight, int64_t length, S factor) {
    const int64_t end = round_up(length, N * kCount);
    for (int64_t i = 0; i < end; ++i)
      values[place_of<N, kCount>(i)] = i < length ? plain_nan(weight[i] * factor) : 0;
  }
};

// s, t, g [rows, length] with rows `b.*_stride` apart, rows <= kMaxTerms, length <= kSegment; S [length]. Row
// after row: the sums of the locations wait in the first cache for the next one.
template <template <class> class Entropy, class Ts, class Tt, class S>
double segment(const Ts* s, const Tt* t, Ts* g, const S* weight, int64_t rows, int64_t length,
               const Block& b) {
  using V = typename Lane<Ts>::V;
  constexpr int N = kTogether<Ts, Tt>;
  constexpr int64_t kCount = Lane<Ts>::kCount;
  const Weights<S, N, kCount> w(weight, length, static_cast<S>(b.factor));
  const bool streamed = b.streamed;
  Entropy<V> entropies[kSegment / kCount];
  for (int64_t r = 0; r < rows; ++r) {
    for_logit_row(s, t, r, length, b, [&](int64_t i, auto part, auto student, auto, const auto& terms) {
      Group<V, N> slope;
      for (int j = 0; j < N; ++j)
        slope.v[j] = entropies[i / kCount + j].add(terms.v[j], load(w.values + i + j * kCount), b.beta);
      if (g != nullptr) put_flipped(g + r * b.grad_stride + i, part, slope, student, streamed);
    });
  }
  V total{};
  for (int64_t i = 0; i < round_up(length, N * kCount); i += kCount)
    total += entropies[i / kCount].total(load(w.values + i));
  return sum(total);
}

template <template <class> class Entropy, class Ts, class Tt, class S>
void location_major(const Ts* s, const Tt* t, Ts* g, const S* weight, const Block& b, double* sums) {
  for (int64_t l = 0; l < b.locations; l += kSegment, ++sums) {
    *sums = 0.0;
    for (int64_t c = 0; c < b.channels; c += kMaxTerms)
      *sums += segment<Entropy>(s + c * b.student_stride + l, t + c * b.teacher_stride + l,
                                g == nullptr ? g : g + c * b.grad_stride + l, weight + l,
                                std::min(kMaxTerms, b.channels - c), std::min(kSegment, b.locations - l), b);
  }
}

// s, t, g [locations, channels] with locations `b.*_stride` apart; S [locations].
template <template <class> class Entropy, class Ts, class Tt, class S>
double channel_major(const Ts* s, const Tt* t, Ts* g, const S* weight, const Block& b) {
  using V = typename Lane<Ts>::V;
  constexpr int N = kTogether<Ts, Tt>;
  constexpr int64_t kChunk = kMaxTerms * N * Lane<Ts>::kCount;
  const bool streamed = b.streamed;
  double total = 0.0;
  for (int64_t l = 0; l < b.locations; ++l) {
    const V w = V{} + plain_nan(weight[l] * static_cast<S>(b.factor));
    V location{};
    for (int64_t begin = 0; begin < b.channels; begin += kChunk) {
      Entropy<V> entropy[N];
      for_logit_channels(s + begin, t + begin, std::min(kChunk, b.channels - begin),
                         [&](int64_t i, auto part, auto student, auto, const auto& terms) {
                           Group<V, N> slope;
                           for (int j = 0; j < N; ++j) slope.v[j] = entropy[j].add(terms.v[j], w, b.beta);
                           if (g != nullptr) put_flipped(g + begin + i, part, slope, student, streamed);
                         });
      for (const Entropy<V>& e : entropy) location += e.total(w);
    }
    total += sum(location);
    s += b.student_stride;
    t += b.teacher_stride;
    if (g != nullptr) g += b.grad_stride;
  }
  return total;
}

template <template <class> class Entropy, class Ts, class Tt, class S>
void head_of(const Ts* s, const Tt* t, Ts* g, const S* weight, const Block& b, double* sums) {
  if (b.channel_major)
    *sums = channel_major<Entropy>(s, t, g, weight, b);
  else
    location_major<Entropy>(s, t, g, weight, b, sums);
}

}  // namespace

void head(const Block& b, double* sums) {
  with_types(b.student_type, b.teacher_type, [&](auto* student, auto* teacher) {
    using Ts = std::remove_pointer_t<decltype(student)>;
    using Tt = std::remove_pointer_t<decltype(teacher)>;
    const Ts* s = static_cast<const Ts*>(b.student);
    const Tt* t = static_cast<const Tt*>(b.teacher);
    Ts* g = static_cast<Ts*>(b.grad);
    const auto* weight = static_cast<const typename Lane<Ts>::Scalar*>(b.weight);
    b.beta > 0 ? head_of<FocalEntropy>(s, t, g, weight, b, sums)
               : head_of<PlainEntropy>(s, t, g, weight, b, sums);
  });
  if (b.streamed) stream_fence();
}

}  // namespace frs::cpu::FRS_ISA
