// The single pass, for calls that want no gradient: it reads T, s, x and y once. It accumulates the maximum,
// the cross-entropy and the squared differences of each location, and multiplies the sums by S at the end.
#include <algorithm>

#include "../isa.h"
#include "../settings.h"
#include "../vec.h"
#include "entropy.h"
#include "maximum.h"
#include "scratch.h"

namespace frs::cpu::FRS_ISA {
namespace {

// What a block accumulates per location: max T, and the sums of cross-entropies and of c (x - y)^2.
template <class S>
struct LocationTotals {
  S maximum[kMaxMaskTile], entropy[kMaxMaskTile], squares[kMaxMaskTile];
};

// The running state of one vector of locations, deinterleaved. It is stored as an array of structs: in three
// arrays the members of a location would suffer from 4K aliasing (a fifth slower in bfloat16 with AVX-512).
template <template <class> class Accumulator, class V>
struct State {
  V maximum, entropy;
  Accumulator<V> accumulator;
};
template <template <class> class Accumulator, class V, int64_t kVectors>
struct States {
  State<Accumulator, V> of[kVectors];
};

// s, t [channels, locations] with row strides `b.*_stride`, locations <= kMaxMaskTile.
template <template <class> class Accumulator, class Ts, class Tt, class S>
void logits_location_major(const Ts* s, const Tt* t, const Block& b, LocationTotals<S>& out) {
  using V = typename VectorOf<Ts>::V;
  constexpr int N = kVectorsPerLoad<Ts, Tt>;
  constexpr int64_t kLanes = VectorOf<Ts>::kLanes;
  const V one = V{} + 1.0f;  // S multiplies later
  const int64_t vectors = round_up(b.locations, N * kLanes) / kLanes;
  auto& states = scratch_as<States<Accumulator, V, kMaxMaskTile / kLanes>, sizeof(LocationTotals<S>)>().of;
  for (int64_t v = 0; v < vectors; ++v)
    states[v] = State<Accumulator, V>{minus_infinity<S>(), V{}, Accumulator<V>{}};
  const Ahead ahead = Ahead::of_rows<ExpBlock<Ts, Tt>::kSize>(settings().prefetch_single, b);
  for (int64_t row = 0; row < b.channels; ++row) {
    for_logits(
        s + row * b.student_stride, t + row * b.teacher_stride, b.locations, ahead,
        [&](int64_t i, auto, auto, auto teacher, const auto& pairs) {
          const auto candidates = group_of(teacher);
          for (int j = 0; j < N; ++j) {
            auto& state = states[i / kLanes + j];
            state.maximum = max_or_nan(state.maximum, candidates.v[j]);
            state.accumulator.add_value(pairs.v[j], one, b.beta, state.entropy);
          }
        },
        [](int64_t) {});
    if ((row + 1) % kMaxLogFactors != 0 && row + 1 < b.channels) continue;
    for (int64_t v = 0; v < vectors; ++v) {
      states[v].entropy += states[v].accumulator.log_part(one);
      states[v].accumulator = Accumulator<V>{};
    }
  }
  for (int64_t i = 0; i < b.locations; ++i) {
    const int64_t index = deinterleaved_index<N, kLanes>(i);
    S maximum[kLanes], entropy[kLanes];
    store(maximum, states[index / kLanes].maximum);
    store(entropy, states[index / kLanes].entropy);
    out.maximum[i] = maximum[index % kLanes];
    out.entropy[i] = entropy[index % kLanes];
  }
}

// s, t [locations, channels] with row strides `b.*_stride`. The padding of a partial vector takes part in the
// maximum, which changes nothing: sigmoid(kPaddingLogit) is 0, as is that of any smaller logit.
template <template <class> class Accumulator, class Ts, class Tt, class S>
void logits_channel_major(const Ts* s, const Tt* t, const Block& b, LocationTotals<S>& out) {
  using V = typename VectorOf<Ts>::V;
  constexpr int N = kVectorsPerLoad<Ts, Tt>;
  constexpr int64_t kChannelsPerLog = kMaxLogFactors * N * VectorOf<Ts>::kLanes;
  const V one = V{} + 1.0f;
  const Ahead ahead = Ahead::of_channels_last();
  for (int64_t l = 0; l < b.locations; ++l) {
    V m = minus_infinity<S>();
    V entropy{}, linear[N] = {};
    for (int64_t begin = 0; begin < b.channels; begin += kChannelsPerLog) {
      Accumulator<V> accumulators[N] = {};
      const int64_t count = std::min(kChannelsPerLog, b.channels - begin);
      for_logits(
          s + l * b.student_stride + begin, t + l * b.teacher_stride + begin, count, ahead,
          [&](int64_t, auto, auto, auto teacher, const auto& pairs) {
            const auto candidates = group_of(teacher);
            for (int j = 0; j < N; ++j) {
              m = max_or_nan(m, candidates.v[j]);
              accumulators[j].add_value(pairs.v[j], one, b.beta, linear[j]);
            }
          },
          [](int64_t) {});
      for (const Accumulator<V>& each : accumulators) entropy += each.log_part(one);
    }
    for (const V& each : linear) entropy += each;
    out.maximum[l] = max_of_lanes(m);
    out.entropy[l] = sum(entropy);
  }
}

// squares[l] += the sum of c (x - y)^2 over R rows; x, y [R, locations]; c [R] or nullptr.
template <int R, class Ts, class Tt, class S>
void add_squares(const Ts* x, const Tt* y, const S* c, const Block& b, S* squares) {
  const int64_t ahead = R * settings().prefetch_rows;
  for_vectors<Ts>(0, b.locations, [&](int64_t i, auto extent) {
    auto total = load(squares + i, extent);
    for (int r = 0; r < R; ++r) {
      prefetch_all(x + (ahead + r) * b.student_stride + i);
      prefetch_all(y + (ahead + r) * b.teacher_stride + i);
      const auto d = load(x + r * b.student_stride + i, extent) - load(y + r * b.teacher_stride + i, extent);
      total += (c == nullptr ? d : d * c[r]) * d;
    }
    store(squares + i, extent, total);
  });
}

// x, y [channels, locations] with row strides `b.*_stride`; c [channels] or nullptr.
template <class Ts, class Tt, class S>
void feats_location_major(const Ts* x, const Tt* y, const S* c, const Block& b, LocationTotals<S>& out) {
  constexpr int64_t kRows = 4;
  for (int64_t row = 0, rows; row < b.channels; row += rows) {
    rows = row + kRows <= b.channels ? kRows : 1;
    const auto add = rows == kRows ? add_squares<kRows, Ts, Tt, S> : add_squares<1, Ts, Tt, S>;
    add(x + row * b.student_stride, y + row * b.teacher_stride, c == nullptr ? c : c + row, b, out.squares);
  }
}

// x, y [locations, channels] with row strides `b.*_stride`; c [channels] or nullptr.
template <class Ts, class Tt, class S>
void feats_channel_major(const Ts* x, const Tt* y, const S* c, const Block& b, LocationTotals<S>& out) {
  for (int64_t l = 0; l < b.locations; ++l) {
    typename VectorOf<Ts>::V squares{};
    for_vectors<Ts>(0, b.channels, [&](int64_t i, auto extent) {
      const auto d = load(x + l * b.student_stride + i, extent) - load(y + l * b.teacher_stride + i, extent);
      squares += (c == nullptr ? d : d * load(c + i, extent)) * d;
    });
    out.squares[l] = sum(squares);
  }
}

template <class S>
void accumulate(const Block& logits, const Block& feats, LocationTotals<S>& out) {
  with_types(logits.student_type, logits.teacher_type, [&](auto* student, auto* teacher) {
    using Ts = std::remove_pointer_t<decltype(student)>;
    if constexpr (std::is_same_v<typename VectorOf<Ts>::Scalar, S>) {
      const auto* s = static_cast<const Ts*>(logits.student);
      const auto* t = static_cast<decltype(teacher)>(const_cast<void*>(logits.teacher));
      if (s == nullptr && logits.channel_major)
        for (int64_t l = 0; l < logits.locations; ++l)
          out.maximum[l] = maximum(t + l * logits.teacher_stride, logits.channels);
      else if (s == nullptr)
        update_max(t, logits.teacher_stride, logits.channels, logits.locations, out.maximum);
      else if (logits.beta > 0)
        logits.channel_major ? logits_channel_major<FocalAccumulator>(s, t, logits, out)
                             : logits_location_major<FocalAccumulator>(s, t, logits, out);
      else
        logits.channel_major ? logits_channel_major<BceAccumulator>(s, t, logits, out)
                             : logits_location_major<BceAccumulator>(s, t, logits, out);
    }
  });
  if (feats.student == nullptr) return;
  with_types(feats.student_type, feats.teacher_type, [&](auto* student, auto* teacher) {
    using Ts = std::remove_pointer_t<decltype(student)>;
    if constexpr (std::is_same_v<typename VectorOf<Ts>::Scalar, S>) {
      const auto* x = static_cast<const Ts*>(feats.student);
      const auto* y = static_cast<decltype(teacher)>(const_cast<void*>(feats.teacher));
      const auto* c = static_cast<const S*>(feats.channel_weight);
      feats.channel_major ? feats_channel_major(x, y, c, feats, out)
                          : feats_location_major(x, y, c, feats, out);
    }
  });
}

template <class S>
void reduce(const Block& logits, const Block& feats, Sums* sums) {
  LocationTotals<S>& totals = scratch_as<LocationTotals<S>>();
  const int64_t locations = logits.locations;
  FRS_CHECK(locations <= kMaxMaskTile);
  for (int64_t l = 0; l < locations; ++l) {
    totals.maximum[l] = -static_cast<S>(INFINITY);
    totals.entropy[l] = totals.squares[l] = 0;
  }
  accumulate(logits, feats, totals);
  for (int64_t begin = 0; begin < locations; begin += kRun, ++sums) {
    *sums = {};
    for_vectors<S>(begin, begin + kRun < locations ? begin + kRun : locations, [&](int64_t i, auto extent) {
      // Without channels the maximum is -Inf, and S is 0.
      const auto mask = sigmoid(load(totals.maximum + i, extent, -INFINITY));
      sums->mask += sum(mask);
      sums->head += sum(mask * load(totals.entropy + i, extent));
      sums->imitation += sum(mask * load(totals.squares + i, extent));
    });
  }
}

}  // namespace

void single(const Block& logits, const Block& feats, Sums* sums) {
  logits.teacher_type == DType::f64 ? reduce<double>(logits, feats, sums)
                                    : reduce<float>(logits, feats, sums);
}

}  // namespace frs::cpu::FRS_ISA
