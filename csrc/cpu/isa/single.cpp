// Mask and losses in one pass over T, s, x and y, for calls that want no gradient: the maximum, the
// cross-entropies and the squared differences of a location are gathered side by side, and S multiplies their
// sums at the end.
#include "../isa.h"
#include "../vec.h"
#include "entropy.h"
#include "maximum.h"

namespace frs::cpu::FRS_ISA {
namespace {

// What is known of each location of a block, gathered row by row.
template <class S>
struct Gathered {
  S maximum[kMaxSingle], entropy[kMaxSingle], squares[kMaxSingle];
};

// s, t [channels, locations] with rows `b.*_stride` apart, row after row as in head.cpp.
template <template <class> class Entropy, class Ts, class Tt, class S>
void gather_logit_rows(const Ts* s, const Tt* t, const Block& b, Gathered<S>& out) {
  using V = typename Lane<Ts>::V;
  constexpr int64_t kCount = Lane<Ts>::kCount;
  for (int64_t begin = 0; begin < b.locations; begin += kSegment) {
    const int64_t length = begin + kSegment < b.locations ? kSegment : b.locations - begin;
    S *maximum = out.maximum + begin, *sum = out.entropy + begin;
    for (int64_t c = 0; c < b.channels; c += kMaxTerms) {
      const int64_t end = c + kMaxTerms < b.channels ? c + kMaxTerms : b.channels;
      Entropy<V> entropies[kSegment / kCount];
      for (int64_t row = c; row < end; ++row) {
        const Ts* student = s + row * b.student_stride + begin;
        const Tt* teacher = t + row * b.teacher_stride + begin;
        for_decays<Ts>(
            0, length,
            [&](int64_t i, auto part) {
              __builtin_prefetch(student + b.student_stride + i);
              __builtin_prefetch(teacher + b.teacher_stride + i);
              return decays(load(student + i, part), load(teacher + i, part));
            },
            [&](int64_t i, auto part, const Decays<V>& e) {
              const V logit = load(teacher + i, part);
              Maximum<V> m{load(maximum + i, part)};
              m.raise(logit);
              store(maximum + i, part, m.get());
              entropies[i / kCount].add(load(student + i, part), logit, e, b.beta);
            });
      }
      for_vectors<Ts>(0, length, [&](int64_t i, auto part) {
        store(sum + i, part, load(sum + i, part) + entropies[i / kCount].total());
      });
    }
  }
}

// s, t [locations, channels] with locations `b.*_stride` apart.
template <template <class> class Entropy, class Ts, class Tt, class S>
void gather_logit_locations(const Ts* s, const Tt* t, const Block& b, Gathered<S>& out) {
  using V = typename Lane<Ts>::V;
  constexpr int64_t kChunk = kMaxTerms * Lane<Ts>::kCount;
  for (int64_t l = 0; l < b.locations; ++l) {
    const Tt* teacher = t + l * b.teacher_stride;
    const Ts* student = s + l * b.student_stride;
    Maximum<V> m{lowest<S>()};
    V total{};
    for (int64_t begin = 0; begin < b.channels; begin += kChunk) {
      const int64_t end = begin + kChunk < b.channels ? begin + kChunk : b.channels;
      Entropy<V> entropy;
      for_decays<Ts>(
          begin, end,
          [&](int64_t i, auto part) {
            return decays(load(student + i, part, kNoLogit), load(teacher + i, part, kNoLogit));
          },
          [&](int64_t i, auto part, const Decays<V>& e) {
            m.raise(load(teacher + i, part, -INFINITY));
            entropy.add(load(student + i, part, kNoLogit), load(teacher + i, part, kNoLogit), e, b.beta);
          });
      total += entropy.total();
    }
    out.maximum[l] = across(m.get());
    out.entropy[l] = sum(total);
  }
}

// x, y [channels, locations] or [locations, channels]; c [channels] or nullptr.
template <class Ts, class Tt, class S>
void gather_feat_rows(const Ts* x, const Tt* y, const S* c, const Block& b, Gathered<S>& out) {
  for (int64_t row = 0; row < b.channels; ++row) {
    for_vectors<Ts>(0, b.locations, [&](int64_t i, auto part) {
      const auto d = load(x + row * b.student_stride + i, part) - load(y + row * b.teacher_stride + i, part);
      store(out.squares + i, part, load(out.squares + i, part) + (c == nullptr ? d : d * c[row]) * d);
    });
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
  Gathered<S> found;
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
      sums->weight += sum(weight);
      sums->head += sum(weight * load(found.entropy + i, part));
      sums->feature += sum(weight * load(found.squares + i, part));
    });
  }
}

}  // namespace

void single(const Block& logits, const Block& feats, Sums* sums) {
  logits.teacher_type == DType::f64 ? reduce<double>(logits, feats, sums)
                                    : reduce<float>(logits, feats, sums);
}

}  // namespace frs::cpu::FRS_ISA
