// The head term in the loss pass: the sum of factor S BCE(s, sigmoid(T)), or of its quality focal form, and
// the gradient, factor S (sigmoid(s) - sigmoid(T)) for BCE.
#include <algorithm>

#include "../isa.h"
#include "../vec.h"
#include "entropy.h"
#include "scratch.h"

namespace frs::cpu::FRS_ISA {
namespace {

// x, with any NaN replaced by the one that store_with_sign can round.
template <class S>
FRS_INLINE S canonical_nan(S x) {
  return x == x ? x : static_cast<S>(NAN);
}

// What a block keeps per location, in scratch memory and deinterleaved: w = S factor and the accumulators.
template <template <class> class Accumulator, class V, class S, int N, int64_t kLanes>
struct State {
  S w[kMaxLossTile];
  Accumulator<V> accumulators[kMaxLossTile / kLanes];

  void start(const S* mask, int64_t locations, S factor) {
    const int64_t end = round_up(locations, N * kLanes);
    for (int64_t i = 0; i < end; ++i)
      w[deinterleaved_index<N, kLanes>(i)] = i < locations ? canonical_nan(mask[i] * factor) : 0;
    std::fill(accumulators, accumulators + end / kLanes, Accumulator<V>{});
  }
};

// s, t, g [channels, locations] with row strides `b.*_stride`, channels <= kMaxLogFactors, locations <=
// kMaxLossTile; mask [locations]. Rows are read whole, in the order of memory; the accumulators of all
// locations stay in the L2 cache from one row to the next.
template <template <class> class Accumulator, class Ts, class Tt, class S>
void location_major(const Ts* s, const Tt* t, Ts* g, const S* mask, const Block& b, double* sums) {
  using V = typename VectorOf<Ts>::V;
  constexpr int N = kVectorsPerLoad<Ts, Tt>;
  constexpr int64_t kLanes = VectorOf<Ts>::kLanes;
  FRS_CHECK(b.channels <= kMaxLogFactors && b.locations <= kMaxLossTile);
  auto& state = scratch_as<State<Accumulator, V, S, N, kLanes>>();
  state.start(mask, b.locations, static_cast<S>(b.factor));
  S* const w = state.w;
  Accumulator<V>* const accumulators = state.accumulators;
  const bool non_temporal = b.non_temporal;
  std::fill(sums, sums + ceil_div(b.locations, kSegment), 0.0);
  const Ahead ahead = Ahead::of_rows<ExpBlock<Ts, Tt>::kSize>(settings().prefetch_loss, b);
  for (int64_t r = 0; r < b.channels; ++r) {
    Ts* const row = g == nullptr ? g : g + r * b.grad_stride;
    // One `linear` for each vector of a group: the compiler would spill one that they share.
    V linear[N] = {}, segments[kMaxLossTile / kSegment] = {};
    for_logits(
        s + r * b.student_stride, t + r * b.teacher_stride, b.locations, ahead,
        [&](int64_t i, auto extent, auto student, auto, const auto& pairs) {
          Group<V, N> slope;
          for (int j = 0; j < N; ++j)
            slope.v[j] =
                accumulators[i / kLanes + j].add(pairs.v[j], load(w + i + j * kLanes), b.beta, linear[j]);
          if (row != nullptr) store_with_sign(row + i, extent, slope, student, non_temporal);
        },
        [&](int64_t i) {
          for (V& each : linear) {
            segments[i / kSegment] += each;
            each = V{};
          }
        });
    for (int64_t i = 0; i < ceil_div(b.locations, kSegment); ++i) sums[i] += sum(segments[i]);
  }
  for (int64_t v = 0; v < round_up(b.locations, N * kLanes) / kLanes; ++v)
    sums[v * kLanes / kSegment] += sum(accumulators[v].log_part(load(w + v * kLanes)));
}

// s, t, g [locations, channels] with row strides `b.*_stride`; mask [locations].
template <template <class> class Accumulator, class Ts, class Tt, class S>
double channel_major(const Ts* s, const Tt* t, Ts* g, const S* mask, const Block& b) {
  using V = typename VectorOf<Ts>::V;
  constexpr int N = kVectorsPerLoad<Ts, Tt>;
  constexpr int64_t kChannelsPerLog = kMaxLogFactors * N * VectorOf<Ts>::kLanes;
  const Ahead ahead = Ahead::of_channels_last();
  const bool non_temporal = b.non_temporal;
  double total = 0.0;
  for (int64_t l = 0; l < b.locations; ++l) {
    const V w = V{} + canonical_nan(mask[l] * static_cast<S>(b.factor));
    V location{}, linear[N] = {};
    for (int64_t begin = 0; begin < b.channels; begin += kChannelsPerLog) {
      Accumulator<V> accumulators[N] = {};
      const int64_t count = std::min(kChannelsPerLog, b.channels - begin);
      for_logits(
          s + begin, t + begin, count, ahead,
          [&](int64_t i, auto extent, auto student, auto, const auto& pairs) {
            Group<V, N> slope;
            for (int j = 0; j < N; ++j) slope.v[j] = accumulators[j].add(pairs.v[j], w, b.beta, linear[j]);
            if (g != nullptr) store_with_sign(g + begin + i, extent, slope, student, non_temporal);
          },
          [](int64_t) {});
      for (const Accumulator<V>& each : accumulators) location += each.log_part(w);
    }
    for (const V& each : linear) location += each;
    total += sum(location);
    s += b.student_stride;
    t += b.teacher_stride;
    if (g != nullptr) g += b.grad_stride;
  }
  return total;
}

template <template <class> class Accumulator, class Ts, class Tt, class S>
void with_accumulator(const Ts* s, const Tt* t, Ts* g, const S* mask, const Block& b, double* sums) {
  if (b.channel_major)
    *sums = channel_major<Accumulator>(s, t, g, mask, b);
  else
    location_major<Accumulator>(s, t, g, mask, b, sums);
}

}  // namespace

void head(const Block& b, double* sums) {
  with_types(b.student_type, b.teacher_type, [&](auto* student, auto* teacher) {
    using Ts = std::remove_pointer_t<decltype(student)>;
    using Tt = std::remove_pointer_t<decltype(teacher)>;
    const Ts* s = static_cast<const Ts*>(b.student);
    const Tt* t = static_cast<const Tt*>(b.teacher);
    Ts* g = static_cast<Ts*>(b.grad);
    const auto* mask = static_cast<const typename VectorOf<Ts>::Scalar*>(b.mask);
    b.beta > 0 ? with_accumulator<FocalAccumulator>(s, t, g, mask, b, sums)
               : with_accumulator<BceAccumulator>(s, t, g, mask, b, sums);
  });
  if (b.non_temporal) non_temporal_fence();
}

}  // namespace frs::cpu::FRS_ISA
