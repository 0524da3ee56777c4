// Head distillation: sum of factor S BCE(s, sigmoid(T)), and d/ds = factor S (sigmoid(s) - sigmoid(T)) in the
// same pass.
#include <algorithm>

#include "../isa.h"
#include "../vec.h"
#include "entropy.h"
#include "scratch.h"

namespace frs::cpu::FRS_ISA {
namespace {

// A NaN of any kind as the one that arithmetic makes (see put_flipped).
template <class S>
FRS_INLINE S plain_nan(S x) {
  return x == x ? x : static_cast<S>(NAN);
}

// What is kept of a row's locations in scratch memory: w = S factor, apart as the groups are, and what is
// left of the entropies.
template <template <class> class Entropy, class V, class S, int N, int64_t kCount>
struct RowState {
  S weights[kMaxLossTile];
  Entropy<V> entropies[kMaxLossTile / kCount];

  void start(const S* weight, int64_t locations, S factor) {
    const int64_t end = round_up(locations, N * kCount);
    for (int64_t i = 0; i < end; ++i)
      weights[place_of<N, kCount>(i)] = i < locations ? plain_nan(weight[i] * factor) : 0;
    std::fill(entropies, entropies + end / kCount, Entropy<V>{});
  }
};

// s, t, g [channels, locations] with rows `b.*_stride` apart, channels <= kMaxLogFactors, locations <=
// kMaxLossTile; S [locations]. Row after row, as they lie in memory: what the locations' products have come
// to waits in the second cache for the next one.
template <template <class> class Entropy, class Ts, class Tt, class S>
void location_major(const Ts* s, const Tt* t, Ts* g, const S* weight, const Block& b, double* sums) {
  using V = typename Lane<Ts>::V;
  constexpr int N = kTogether<Ts, Tt>;
  constexpr int64_t kCount = Lane<Ts>::kCount;
  auto& state = in_scratch<RowState<Entropy, V, S, N, kCount>>();
  state.start(weight, b.locations, static_cast<S>(b.factor));
  S* const w = state.weights;
  Entropy<V>* const entropies = state.entropies;
  const bool streamed = b.non_temporal;
  std::fill(sums, sums + ceil_div(b.locations, kSegment), 0.0);
  constexpr int64_t kAhead = 1024;
  const Rows next = {kAhead, b.student_stride, b.teacher_stride};
  for (int64_t r = 0; r < b.channels; ++r) {
    Ts* const row = g == nullptr ? g : g + r * b.grad_stride;
    V linear[N] = {}, segments[kMaxLossTile / kSegment] = {};
    for_logits(
        s + r * b.student_stride, t + r * b.teacher_stride, b.locations, next,
        [&](int64_t i, auto part, auto student, auto, const auto& terms) {
          Group<V, N> slope;
          for (int j = 0; j < N; ++j)
            slope.v[j] =
                entropies[i / kCount + j].add(terms.v[j], load(w + i + j * kCount), b.beta, linear[j]);
          if (row != nullptr) put_flipped(row + i, part, slope, student, streamed);
        },
        [&](int64_t i) {
          for (V& each : linear) {
            segments[i / kSegment] += each;
            each = V{};
          }
        });
    for (int64_t i = 0; i < ceil_div(b.locations, kSegment); ++i) sums[i] += sum(segments[i]);
  }
  for (int64_t v = 0; v < round_up(b.locations, N * kCount) / kCount; ++v)
    sums[v * kCount / kSegment] += sum(entropies[v].rest(load(w + v * kCount)));
}

// s, t, g [locations, channels] with locations `b.*_stride` apart; S [locations].
template <template <class> class Entropy, class Ts, class Tt, class S>
double channel_major(const Ts* s, const Tt* t, Ts* g, const S* weight, const Block& b) {
  using V = typename Lane<Ts>::V;
  constexpr int N = kTogether<Ts, Tt>;
  constexpr int64_t kChunk = kMaxLogFactors * N * Lane<Ts>::kCount;
  const bool streamed = b.non_temporal;
  double total = 0.0;
  for (int64_t l = 0; l < b.locations; ++l) {
    const V w = V{} + plain_nan(weight[l] * static_cast<S>(b.factor));
    V location{}, linear[N] = {};
    for (int64_t begin = 0; begin < b.channels; begin += kChunk) {
      Entropy<V> entropy[N] = {};
      const int64_t count = std::min(kChunk, b.channels - begin);
      for_logits(
          s + begin, t + begin, count, Follows{},
          [&](int64_t i, auto part, auto student, auto, const auto& terms) {
            Group<V, N> slope;
            for (int j = 0; j < N; ++j) slope.v[j] = entropy[j].add(terms.v[j], w, b.beta, linear[j]);
            if (g != nullptr) put_flipped(g + begin + i, part, slope, student, streamed);
          },
          [](int64_t) {});
      for (const Entropy<V>& e : entropy) location += e.rest(w);
    }
    for (const V& each : linear) location += each;
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
    const auto* weight = static_cast<const typename Lane<Ts>::Scalar*>(b.mask);
    b.beta > 0 ? head_of<FocalEntropy>(s, t, g, weight, b, sums)
               : head_of<PlainEntropy>(s, t, g, weight, b, sums);
  });
  if (b.non_temporal) stream_fence();
}

}  // namespace frs::cpu::FRS_ISA
