// The operator `kl`: the sum of w KL(softmax(T / tau) || softmax(s / tau)) and its gradient.
//
// A tile is loaded, replaced by its exponentials and turned into the gradient. So every logit is read from
// memory once, and has one exponential. Distributions that are larger than a tile are read twice.
#include "../isa.h"
#include "../vec.h"
#include "kl_tile.h"
#include "scratch.h"
#include "softmax.h"

namespace frs::cpu::FRS_ISA {
namespace {

// Calls f(T*) with a null pointer of an element type whose accumulation dtype is S.
template <class S, class F>
FRS_INLINE void with_type(DType type, const F& f) {
  if constexpr (std::is_same_v<S, double>) {
    f(static_cast<double*>(nullptr));
  } else {
    if (type == DType::f32) f(static_cast<float*>(nullptr));
    if (type == DType::bf16) f(static_cast<BFloat16*>(nullptr));
    if (type == DType::f16) f(static_cast<Half*>(nullptr));
  }
}

// Some bins of some distributions of a block.
struct Part {
  int64_t distribution, width, bin, bins;
};

template <KLForm kForm, class S>
class KLKernel {
  using V = typename VectorOf<S>::V;
  static constexpr int64_t kLanes = VectorOf<S>::kLanes;
  static constexpr bool kRows = kForm == KLForm::rows;

 public:
  explicit KLKernel(const KLBlock& b) : b_(b), tile_(scratch_as<KLTile<S>>()) {}

  double whole() {
    double total = 0.0;
    const auto statistics = Statistics<S>::at(tile_.statistics, kMaxKLWidth);
    // Cache lines may be shared by groups, where the next one to prefetch is that of the next distributions.
    const int64_t ahead = kForm == KLForm::transposed ? b_.groups : 1;
    const int64_t parts = ceil_div(b_.distributions, b_.width) * b_.groups;
    for (int64_t i = 0; i < parts; ++i) {
      const Part part = part_of_groups(i), next = part_of_groups(i + ahead);
      load_logits(part, statistics);
      take_exponentials(part, statistics, i + ahead < parts ? &next : nullptr);
      total += finish(statistics, weight(part.distribution), part.width, b_);
      store_gradients(part, statistics);
    }
    return total;
  }

  void statistics(S* out) {
    const auto total = Statistics<S>::at(out, b_.distributions);
    const auto statistics = Statistics<S>::at(tile_.statistics, kMaxKLWidth);
    for_parts_of_bins([&](const Part& part, const Part* next) {
      load_logits(part, statistics);
      take_exponentials(part, statistics, next);
      if (part.bin > 0) return merge(total, statistics, part.width, b_.temperature);
      for (int64_t i = 0; i < kKLStatistics; ++i)
        std::copy_n(tile_.statistics + i * kMaxKLWidth, part.width, out + i * part.width);
    });
  }

  double merge_parts(S* statistics, int64_t parts) {
    const int64_t width = b_.distributions;
    const auto total = Statistics<S>::at(statistics, width);
    for (int64_t i = 1; i < parts; ++i)
      merge(total, Statistics<S>::at(statistics + i * kKLStatistics * width, width), width, b_.temperature);
    return finish(total, weight(0), width, b_);
  }

  void gradient(const S* merged) {
    for (int64_t i = 0; i < kKLStatistics; ++i)
      std::copy_n(merged + i * b_.distributions, b_.distributions, tile_.statistics + i * kMaxKLWidth);
    const auto total = Statistics<S>::at(tile_.statistics, kMaxKLWidth);
    const auto unused = Statistics<S>::at(tile_.unused, kMaxKLWidth);
    const Statistics<S> maxima{total.max_student, total.max_teacher, unused.sum_student, unused.sum_teacher,
                               unused.dot};
    for_parts_of_bins([&](const Part& part, const Part* next) {
      load_logits(part, unused);
      take_exponentials(part, maxima, next);
      store_gradients(part, total);
    });
  }

 private:
  // Part `i` of whole distributions: the groups of some of them, one after another.
  Part part_of_groups(int64_t i) const {
    const int64_t first = i / b_.groups * b_.width;
    return {first, std::min(b_.width, b_.distributions - first), i % b_.groups * b_.bins, b_.bins};
  }

  // Calls body(Part, the next Part or nullptr) for some bins of all distributions at a time.
  template <class Body>
  void for_parts_of_bins(const Body& body) {
    const int64_t most = b_.tile_bins;
    auto part_at = [&](int64_t bin) { return Part{0, b_.distributions, bin, std::min(most, b_.bins - bin)}; };
    for (int64_t bin = 0; bin < b_.bins; bin += most) {
      const Part next = part_at(bin + most);
      body(part_at(bin), next.bins > 0 ? &next : nullptr);
    }
  }

  int64_t offset(const Part& part, int64_t stride) const {
    return kForm == KLForm::columns ? part.bin * stride + part.distribution
                                    : part.distribution * stride + part.bin;
  }
  const S* weight(int64_t distribution) const {
    return b_.weight == nullptr ? nullptr : static_cast<const S*>(b_.weight) + distribution;
  }

  void load_logits(const Part& part, const Statistics<S>& out) {
    FRS_CHECK((kRows ? part.width * ceil_div(part.bins, kLanes) : ceil_div(part.width, kLanes) * part.bins) <=
              static_cast<int64_t>(sizeof(tile_.logits) / sizeof(tile_.logits[0])));
    load_tensor(part, b_.student, b_.student_type, b_.student_stride, &tile_.logits->student,
                out.max_student);
    load_tensor(part, b_.teacher, b_.teacher_type, b_.teacher_stride, &tile_.logits->teacher,
                out.max_teacher);
  }
  void load_tensor(const Part& part, const void* data, DType type, int64_t stride, V* tile, S* maxima) {
    with_type<S>(type, [&](auto* null) {
      const auto* x = static_cast<decltype(null)>(const_cast<void*>(data)) + offset(part, stride);
      Form<kForm>::load_logits(x, stride, part.width, part.bins, tile, maxima);
    });
  }

  // Prefetches the next part meanwhile.
  void take_exponentials(const Part& part, const Statistics<S>& of, const Part* next) {
    next == nullptr ? take_exponentials<false>(part, of, part) : take_exponentials<true>(part, of, *next);
  }
  template <bool kPrefetch>
  void take_exponentials(const Part& part, const Statistics<S>& of, const Part& next) {
    const S inverse_temperature = static_cast<S>(1 / b_.temperature);
    const int64_t vectors = kRows ? ceil_div(part.bins, kLanes) : part.bins;
    LogitVectors<V>* logits = tile_.logits;
    LogitsAhead ahead;
    if constexpr (kPrefetch) {
      ahead.student = ahead_of(next, b_.student, b_.student_type, b_.student_stride);
      ahead.teacher = ahead_of(next, b_.teacher, b_.teacher_type, b_.teacher_stride);
    }
    auto sums_of = [&](V max_student, V max_teacher) FRS_INLINE_LAMBDA {
      const auto sums =
          exponentials<kPrefetch>(logits, vectors, max_student, max_teacher, inverse_temperature, ahead);
      logits += vectors;
      ahead.student.first += ahead.student.to_next_sums;
      ahead.teacher.first += ahead.teacher.to_next_sums;
      return sums;
    };
    for (int64_t d = 0; d < part.width; d += kLanes) {
      if constexpr (kRows) {
        V student[kLanes] = {}, teacher[kLanes] = {}, dot[kLanes] = {};
        const int count = static_cast<int>(std::min<int64_t>(kLanes, part.width - d));
        for (int row = 0; row < count; ++row) {
          const auto sums = sums_of(V{} + of.max_student[d + row], V{} + of.max_teacher[d + row]);
          student[row] = sums.student, teacher[row] = sums.teacher, dot[row] = sums.dot;
        }
        auto add = [](V v, V w) FRS_INLINE_LAMBDA { return v + w; };
        store(of.sum_student + d, reduced(student, add));
        store(of.sum_teacher + d, reduced(teacher, add));
        store(of.dot + d, reduced(dot, add));
      } else {
        const auto sums = sums_of(load(of.max_student + d), load(of.max_teacher + d));
        store(of.sum_student + d, sums.student);
        store(of.sum_teacher + d, sums.teacher);
        store(of.dot + d, sums.dot);
      }
    }
  }
  // One cache line of floats with each vector. Where groups share lines, each of them prefetches its share.
  TensorAhead ahead_of(const Part& next, const void* data, DType type, int64_t stride) const {
    const int64_t size = size_of(type);
    const int64_t first = offset(next, stride) + (kForm == KLForm::transposed ? next.bin * (kLanes - 1) : 0);
    const char* const line = static_cast<const char*>(data) + first * size;
    if (kForm == KLForm::columns) return {line, stride * size, kLanes * size};
    return {line, kLanes * size, (kRows ? 1 : kLanes) * stride * size};
  }

  void store_gradients(const Part& part, const Statistics<S>& of) {
    if (b_.grad == nullptr) return;
    with_type<S>(b_.student_type, [&](auto* null) {
      auto* g = static_cast<decltype(null)>(b_.grad) + offset(part, b_.grad_stride);
      if constexpr (kForm == KLForm::transposed && std::is_same_v<decltype(null), float*>) {
        if (b_.non_temporal) return collect_gradients(part, of, g);
      }
      Form<kForm>::store_gradients(g, b_.grad_stride, part.width, part.bins, tile_.logits, of.ratio(),
                                   of.slope(), b_.non_temporal);
    });
    if (b_.non_temporal) non_temporal_fence();
  }
  // Groups share cache lines, which a non-temporal store writes as a whole: so the gradients of all groups
  // are collected in the scratch memory behind the tile, and then stored.
  void collect_gradients(const Part& part, const Statistics<S>& of, float* g) {
    auto* const rows = reinterpret_cast<float*>(tile_.logits + ceil_div(part.width, kLanes) * part.bins);
    FRS_CHECK(rows + part.width * b_.grad_stride <= reinterpret_cast<float*>(&tile_.logits + 1));
    Form<kForm>::store_gradients(rows + part.bin, b_.grad_stride, part.width, part.bins, tile_.logits,
                                 of.ratio(), of.slope(), false);
    if (part.bin + part.bins < b_.grad_stride) return;
    for_vectors<float>(0, part.width * b_.grad_stride, [&](int64_t i, auto extent) {
      store_gradient(g - part.bin + i, extent, load(rows + i, extent), true);
    });
  }

  const KLBlock& b_;
  KLTile<S>& tile_;
};

// Calls f(KLKernel, S*) with the kernel for a block, and a null pointer of its accumulation dtype.
template <class F>
FRS_INLINE auto with_kernel(const KLBlock& b, const F& f) {
  auto with_form = [&](auto* null) {
    using S = std::remove_pointer_t<decltype(null)>;
    if (b.form == KLForm::rows) return f(KLKernel<KLForm::rows, S>(b), null);
    if (b.form == KLForm::transposed) return f(KLKernel<KLForm::transposed, S>(b), null);
    return f(KLKernel<KLForm::columns, S>(b), null);
  };
  return b.student_type == DType::f64 ? with_form(static_cast<double*>(nullptr))
                                      : with_form(static_cast<float*>(nullptr));
}

}  // namespace

double kl(const KLBlock& b) {
  return with_kernel(b, [](auto kernel, auto*) { return kernel.whole(); });
}

void kl_statistics(const KLBlock& b, void* statistics) {
  with_kernel(b,
              [&](auto kernel, auto* null) { kernel.statistics(static_cast<decltype(null)>(statistics)); });
}

double kl_merge(const KLBlock& b, void* statistics, int64_t parts) {
  return with_kernel(b, [&](auto kernel, auto* null) {
    return kernel.merge_parts(static_cast<decltype(null)>(statistics), parts);
  });
}

void kl_gradient(const KLBlock& b, const void* merged) {
  with_kernel(b, [&](auto kernel, auto* null) {
    kernel.gradient(static_cast<decltype(null)>(const_cast<void*>(merged)));
  });
}

}  // namespace frs::cpu::FRS_ISA
