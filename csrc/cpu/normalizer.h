// The normalizer of a level and its factor scale / Z_l.
#pragma once

#include "isa.h"
#include "tasks.h"

namespace frs::cpu {

// sums[i] = the sum of S over run i.
template <class S>
void sum_runs(const S* mask, int64_t locations, double* sums) {
  split(locations, kRun, [&](int64_t begin, int64_t length) {
    double lanes[4] = {};
    for (int64_t i = 0; i < length; ++i) lanes[i % 4] += mask[begin + i];
    sums[begin / kRun] = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  });
}
inline void sum_runs(const void* mask, bool double_precision, int64_t locations, double* sums) {
  double_precision ? sum_runs(static_cast<const double*>(mask), locations, sums)
                   : sum_runs(static_cast<const float*>(mask), locations, sums);
}

// scale / Z_l of one term of one level.
struct Factor {
  double value = 0.0;
  bool normalizer_is_zero = true;  // then the level contributes nothing, even if its sum is infinite or NaN

  double times(double sum) const { return normalizer_is_zero ? 0.0 : value * sum; }

  // The factor has two parts: what gradients of this type are multiplied by in the kernels, and the rest.
  double applied(DType gradient) const { return pending_factor(gradient) ? 1.0 : value; }
  double pending(DType gradient) const { return pending_factor(gradient) ? value : 1.0; }
};

inline double value_of(const Scalar& s, bool double_precision) {
  if (s.device == nullptr) return s.value;
  return s.value *
         (double_precision ? *static_cast<const double*>(s.device) : *static_cast<const float*>(s.device));
}

// What the factors of all levels and terms have in common. Parameters are LossParams or KLParams.
class Factors {
 public:
  template <class Parameters>
  Factors(const Parameters& params, bool double_precision)
      : normalizer_(params.normalizer),
        value_(value_of(params.normalizer_value, double_precision)),
        double_precision_(double_precision) {}

  Factor of(const Scalar& scale, int64_t batch, int64_t channels, int64_t locations, double mask_sum) const {
    const double z = normalizer_of<double>(
        normalizer_, batch, channels, locations, [&] { return mask_sum; }, [&] { return value_; });
    return {z == 0.0 ? 0.0 : value_of(scale, double_precision_) / z, z == 0.0};
  }

 private:
  Normalizer normalizer_;
  double value_;
  bool double_precision_;
};

}  // namespace frs::cpu
