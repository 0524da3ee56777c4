// What the KL kernels compute of one or several distributions in vectors, wherever the logits come from.
//
// With tau the temperature and the maxima m_t, m_s of T and s over the bins of a distribution:
//   E_t = sum exp((T - m_t) / tau), E_s likewise, dot = sum exp((T - m_t) / tau) ((T - m_t) - (s - m_s))
//   KL = dot / (tau E_t) - log(E_t / E_s)
//   dKL/ds = (exp((s - m_s) / tau) / E_s - exp((T - m_t) / tau) / E_t) / tau
// Where the student equals the teacher, all of it is exactly 0: both sides take the same operations, and no
// multiply-add can be fused into the differences.
#pragma once

#include "../isa.h"
#include "../vec.h"

namespace frs::cpu::FRS_ISA {
namespace {

template <class V>
struct LogitVectors {
  V student, teacher;
};

// The statistics of W distributions. A bin of NaN or +Inf makes the sum of its side NaN.
template <class S>
struct Statistics {
  S *max_student, *max_teacher, *sum_student, *sum_teacher, *dot;  // m_s, m_t, E_s, E_t, dot

  static Statistics at(S* array, int64_t width) {
    return {array, array + width, array + 2 * width, array + 3 * width, array + 4 * width};
  }
  // What the gradient takes besides the maxima. It replaces sums that are no longer needed.
  S* ratio() const { return sum_student; }  // E_t / E_s
  S* slope() const { return dot; }          // w factor / E_t
};

template <class V>
struct ExponentialSums {
  V student, teacher, dot;
};

// What to prefetch of one tensor: with vector i of the first sums the line at first + i * step, in bytes.
struct TensorAhead {
  const char* first = nullptr;
  int64_t step = 0, to_next_sums = 0;
};
struct LogitsAhead {
  TensorAhead student, teacher;
};

// Replaces logits by their exponentials, and sums them up. Long sums are sums of short ones: they lose less.
template <bool kPrefetch, class V, class S>
FRS_INLINE ExponentialSums<V> exponentials(LogitVectors<V>* logits, int64_t count, V max_student,
                                           V max_teacher, S inverse_temperature, const LogitsAhead& ahead) {
  constexpr int64_t kShort = 32;
  ExponentialSums<V> total{};
  for (int64_t first = 0; first < count; first += kShort) {
    ExponentialSums<V> sums{};
    const int64_t end = first + kShort < count ? first + kShort : count;
    for (int64_t i = first; i < end; ++i) {
      if constexpr (kPrefetch) {
        prefetch_all(ahead.student.first + i * ahead.student.step);
        prefetch_all(ahead.teacher.first + i * ahead.teacher.step);
      }
      const V s = logits[i].student - max_student, t = logits[i].teacher - max_teacher;
      const V exp_s = exp_nonpositive(s * inverse_temperature);
      const V exp_t = exp_nonpositive(t * inverse_temperature);
      sums.student += exp_s;
      sums.teacher += exp_t;
      sums.dot += exp_t > 0 ? exp_t * (t - s) : V{};
      logits[i] = {exp_s, exp_t};
    }
    total.student += sums.student;
    total.teacher += sums.teacher;
    total.dot += sums.dot;
  }
  return total;
}

template <class V>
FRS_INLINE V gradient_of(const LogitVectors<V>& exponentials, V ratio, V slope) {
  return (exponentials.student * ratio - exponentials.teacher) * slope;
}

// The sum of w KL. Leaves ratio() and slope() for the gradient. w [width] or nullptr.
template <class S>
double finish(const Statistics<S>& of, const S* weight, int64_t width, const KLBlock& b) {
  using V = typename VectorOf<S>::V;
  const S inverse_temperature = static_cast<S>(1 / b.temperature), factor = static_cast<S>(b.factor);
  double total = 0.0;
  for_vectors<S>(0, width, [&](int64_t i, auto extent) {
    const V student = load(of.sum_student + i, extent, 1.0f);
    const V teacher = load(of.sum_teacher + i, extent, 1.0f);
    const V dot = load(of.dot + i, extent) * inverse_temperature;
    const V w = weight == nullptr ? V{} + 1 : load(weight + i, extent);
    total += sum(w * (dot / teacher - log1p((teacher - student) / student)));
    const V multiple = w * factor;
    store(of.ratio() + i, extent, teacher / student);
    store(of.slope() + i, extent, multiple / teacher + 0 * multiple);  // NaN if w is infinite: Inf - Inf
  });
  return total;
}

template <class V>
FRS_INLINE V sum_of_scaled(V x, V x_scale, V y, V y_scale) {
  return x * x_scale + y * y_scale;
}

// Adds the statistics of more bins to `total`.
template <class S>
void merge(const Statistics<S>& total, const Statistics<S>& more, int64_t width, double temperature) {
  using V = typename VectorOf<S>::V;
  const S inverse_temperature = static_cast<S>(1 / temperature);
  for_vectors<S>(0, width, [&](int64_t i, auto extent) {
    const auto old_s = load(total.max_student + i, extent), new_s = load(more.max_student + i, extent);
    const auto old_t = load(total.max_teacher + i, extent), new_t = load(more.max_teacher + i, extent);
    const V max_s = larger(new_s, old_s), max_t = larger(new_t, old_t);
    auto scale = [&](V from, V to) { return exp_nonpositive((from - to) * inverse_temperature); };
    const V old_scale = scale(old_t, max_t), new_scale = scale(new_t, max_t);
    const V old_sum = load(total.sum_teacher + i, extent), new_sum = load(more.sum_teacher + i, extent);
    auto dot = [&](const Statistics<S>& of, V from_s, V from_t, V sum, V scale) {
      const V shift = (from_t - max_t) - (from_s - max_s);
      return scale > 0 ? scale * (load(of.dot + i, extent) + shift * sum) : V{};
    };
    store(total.dot + i, extent,
          dot(total, old_s, old_t, old_sum, old_scale) + dot(more, new_s, new_t, new_sum, new_scale));
    store(total.sum_student + i, extent,
          sum_of_scaled(load(total.sum_student + i, extent), scale(old_s, max_s),
                        load(more.sum_student + i, extent), scale(new_s, max_s)));
    store(total.sum_teacher + i, extent, sum_of_scaled(old_sum, old_scale, new_sum, new_scale));
    store(total.max_student + i, extent, max_s);
    store(total.max_teacher + i, extent, max_t);
  });
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
