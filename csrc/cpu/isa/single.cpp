// Mask and losses in one pass over T, s, x and y, for calls that want no gradient: the maximum, the
// cross-entropies and the squared differences of a location are gathered side by side, and S multiplies their
// sums at the end.
#include <algorithm>

#include "../isa.h"
#include "../vec.h"
#include "entropy.h"
#include "maximum.h"
#include "scratch.h"

namespace frs::cpu::FRS_ISA {
namespace {

// What is known of each location of a block, gathered row by row.
template <class S>
struct Gathered {
  S maximum[kMaxMaskTile], entropy[kMaxMaskTile], squares[kMaxMaskTile];
};

// What is known of one vector of locations, groups apart: its maximum, the sum of its entropies, and what is
// left of the last ones. Side by side: in arrays of their own all three would lie at the same place of a
// page, which costs a processor that compares addresses by their last bits a fifth of its time (bfloat16,
// AVX-512).
template <template <class> class Entropy, class V>
struct Gathering {
  V maximum, total;
  Entropy<V> entropy;
};
template <template <class> class Entropy, class V, int64_t kVectors>
struct GatheringRow {
  Gathering<Entropy, V> vectors[kVectors];
};

// s, t [channels, locations <= kMaxMaskTile] with rows `b.*_stride` apart, row after row as in head.cpp.
template <template <class> class Entropy, class Ts, class Tt, class S>
void gather_logit_rows(const Ts* s, const Tt* t, const Block& b, Gathered<S>& out) {
  using V = typename Lane<Ts>::V;
  constexpr int N = kTogether<Ts, Tt>;
  constexpr int64_t kCount = Lane<Ts>::kCount;
  const V one = V{} + 1.0f;  // S is known when the sums are
  const int64_t vectors = round_up(b.locations, N * kCount) / kCount;
  auto& found = in_scratch<GatheringRow<Entropy, V, kMaxMaskTile / kCount>, sizeof(Gathered<S>)>().vectors;
  for (int64_t v = 0; v < vectors; ++v) found[v] = Gathering<Entropy, V>{lowest<S>(), V{}, Entropy<V>{}};
  const Rows next = {kMaxMaskTile, b.student_stride, b.teacher_stride};  // the next row: it is not close
  for (int64_t row = 0; row < b.channels; ++row) {
    for_logits(
        s + row * b.student_stride, t + row * b.teacher_stride, b.locations, next,
        [&](int64_t i, auto, auto, auto teacher, const auto& terms) {
          const auto candidates = group_of(teacher);
          for (int j = 0; j < N; ++j) {
            auto& f = found[i / kCount + j];
            f.maximum = raised(f.maximum, candidates.v[j]);
            f.entropy.add(terms.v[j], one, b.beta, f.total);
          }
        },
        [](int64_t) {});
    if ((row + 1) % kMaxLogFactors != 0 && row + 1 < b.channels) continue;
    for (int64_t v = 0; v < vectors; ++v) {
      found[v].total += found[v].entropy.rest(one);
      found[v].entropy = Entropy<V>{};
    }
  }
  for (int64_t i = 0; i < b.locations; ++i) {
    const int64_t place = place_of<N, kCount>(i);
    S maximum[kCount], total[kCount];
    store(maximum, found[place / kCount].maximum);
    store(total, found[place / kCount].total);
    out.maximum[i] = maximum[place % kCount];
    out.entropy[i] = total[place % kCount];
  }
}

// s, t [locations, channels] with locations `b.*_stride` apart. The fill of a last vector, kNoLogit, is no
// maximum that matters: sigmoid(-128) is 0, as that of anything less.
template <template <class> class Entropy, class Ts, class Tt, class S>
void gather_logit_locations(const Ts* s, const Tt* t, const Block& b, Gathered<S>& out) {
  using V = typename Lane<Ts>::V;
  constexpr int N = kTogether<Ts, Tt>;
  constexpr int64_t kChunk = kMaxLogFactors * N * Lane<Ts>::kCount;
  const V one = V{} + 1.0f;
  for (int64_t l = 0; l < b.locations; ++l) {
    V m = lowest<S>();
    V total{}, linear[N] = {};
    for (int64_t begin = 0; begin < b.channels; begin += kChunk) {
      Entropy<V> entropy[N] = {};
      const int64_t count = std::min(kChunk, b.channels - begin);
      for_logits(
          s + l * b.student_stride + begin, t + l * b.teacher_stride + begin, count, Follows{},
          [&](int64_t, auto, auto, auto teacher, const auto& terms) {
            const auto candidates = group_of(teacher);
            for (int j = 0; j < N; ++j) {
              m = raised(m, candidates.v[j]);
              entropy[j].add(terms.v[j], one, b.beta, linear[j]);
            }
          },
          [](int64_t) {});
      for (const Entropy<V>& e : entropy) total += e.rest(one);
    }
    for (const V& each : linear) total += each;
    out.maximum[l] = across(m);
    out.entropy[l] = sum(total);
  }
}

// squares[l] += sum of c (x - y)^2 over R rows; x, y [R, locations], c [R] or nullptr.
template <int R, class Ts, class Tt, class S>
void add_squares(const Ts* x, const Tt* y, const S* c, const Block& b, S* squares) {
  for_vectors<Ts>(0, b.locations, [&](int64_t i, auto part) {
    auto total = load(squares + i, part);
    for (int r = 0; r < R; ++r) {
      fetch(x + (R + r) * b.student_stride + i);
      fetch(y + (R + r) * b.teacher_stride + i);
      const auto d = load(x + r * b.student_stride + i, part) - load(y + r * b.teacher_stride + i, part);
      total += (c == nullptr ? d : d * c[r]) * d;
    }
    store(squares + i, part, total);
  });
}

// x, y [channels, locations] or [locations, channels]; c [channels] or nullptr.
template <class Ts, class Tt, class S>
void gather_feat_rows(const Ts* x, const Tt* y, const S* c, const Block& b, Gathered<S>& out) {
  constexpr int64_t kRows = 4;
  for (int64_t row = 0, rows; row < b.channels; row += rows) {
    rows = row + kRows <= b.channels ? kRows : 1;
    const auto add = rows == kRows ? add_squares<kRows, Ts, Tt, S> : add_squares<1, Ts, Tt, S>;
    add(x + row * b.student_stride, y + row * b.teacher_stride, c == nullptr ? c : c + row, b, out.squares);
  }
}
template <class Ts, class Tt, class S>
void gather_feat_locations(const Ts* x, const Tt* y, const S* c, const Block& b, Gathered<S>& out) {
  for (int64_t l = 0; l < b.locations; ++l) {
    typename Lane<Ts>::V squares{};
    for_vectors<Ts>(0, b.channels, [&](int64_t i, auto part) {
      const auto d = load(x + l * b.student_stride + i, part) - load(y + l * b.teacher_stride + i, part);
      squares += (c == nullptr ? d : d * load(c + i, part)) * d;
    });
    out.squares[l] = sum(squares);
  }
}

template <class S>
void gather(const Block& logits, const Block& feats, Gathered<S>& out) {
  with_types(logits.student_type, logits.teacher_type, [&](auto* student, auto* teacher) {
    using Ts = std::remove_pointer_t<decltype(student)>;
    if constexpr (std::is_same_v<typename Lane<Ts>::Scalar, S>) {
      const auto* s = static_cast<const Ts*>(logits.student);
      const auto* t = static_cast<decltype(teacher)>(const_cast<void*>(logits.teacher));
      if (s == nullptr && logits.channel_major)
        for (int64_t l = 0; l < logits.locations; ++l)
          out.maximum[l] = maximum(t + l * logits.teacher_stride, logits.channels);
      else if (s == nullptr)
        raise_by_rows(t, logits.teacher_stride, logits.channels, logits.locations, out.maximum);
      else if (logits.beta > 0)
        logits.channel_major ? gather_logit_locations<FocalEntropy>(s, t, logits, out)
                             : gather_logit_rows<FocalEntropy>(s, t, logits, out);
      else
        logits.channel_major ? gather_logit_locations<PlainEntropy>(s, t, logits, out)
                             : gather_logit_rows<PlainEntropy>(s, t, logits, out);
    }
  });
  if (feats.student == nullptr) return;
  with_types(feats.student_type, feats.teacher_type, [&](auto* student, auto* teacher) {
    using Ts = std::remove_pointer_t<decltype(student)>;
    if constexpr (std::is_same_v<typename Lane<Ts>::Scalar, S>) {
      const auto* x = static_cast<const Ts*>(feats.student);
      const auto* y = static_cast<decltype(teacher)>(const_cast<void*>(feats.teacher));
      const auto* c = static_cast<const S*>(feats.channel_weight);
      feats.channel_major ? gather_feat_locations(x, y, c, feats, out)
                          : gather_feat_rows(x, y, c, feats, out);
    }
  });
}

template <class S>
void reduce(const Block& logits, const Block& feats, Sums* sums) {
  Gathered<S>& found = in_scratch<Gathered<S>>();
  const int64_t locations = logits.locations;
  for (int64_t l = 0; l < locations; ++l) {
    found.maximum[l] = -static_cast<S>(INFINITY);
    found.entropy[l] = found.squares[l] = 0;
  }
  gather(logits, feats, found);
  for (int64_t begin = 0; begin < locations; begin += kRun, ++sums) {
    *sums = {};
    for_vectors<S>(begin, begin + kRun < locations ? begin + kRun : locations, [&](int64_t i, auto part) {
      const auto weight =
          sigmoid(load(found.maximum + i, part, -INFINITY));  // of no channels: sigmoid(-Inf) = 0
      sums->mask += sum(weight);
      sums->head += sum(weight * load(found.entropy + i, part));
      sums->imitation += sum(weight * load(found.squares + i, part));
    });
  }
}

}  // namespace

void single(const Block& logits, const Block& feats, Sums* sums) {
  logits.teacher_type == DType::f64 ? reduce<double>(logits, feats, sums)
                                    : reduce<float>(logits, feats, sums);
}

}  // namespace frs::cpu::FRS_ISA
