// The richness map: S[l] = max over channels of sigmoid(T[c, l]) = sigmoid(max), one sigmoid a location.
#include "../isa.h"
#include "../vec.h"
#include "maximum.h"

namespace frs::cpu::FRS_ISA {
namespace {

// T [channels, locations], rows `stride` apart -> S [locations], first as the running maximum.
template <class T, class S>
void mask_rows(const T* t, int64_t stride, int64_t channels, int64_t locations, S* s) {
  for_vectors<T>(0, locations, [&](int64_t i, auto part) { store(s + i, part, lowest<S>()); });
  raise_by_rows(t, stride, channels, locations, s);
  for_vectors<T>(0, locations, [&](int64_t i, auto part) { store(s + i, part, sigmoid(load(s + i, part))); });
}

// T [locations, channels], locations `stride` apart -> S [locations].
template <class T, class S>
void mask_locations(const T* t, int64_t stride, int64_t channels, int64_t locations, S* s) {
  for (int64_t l = 0; l < locations; ++l) s[l] = sigmoid(maximum(t + l * stride, channels));
}

}  // namespace

void mask(const Block& b, void* weight, double* sums) {
  with_types(b.teacher_type, b.teacher_type == DType::f64 ? DType::f64 : DType::f32, [&](auto* type, auto*) {
    using T = std::remove_pointer_t<decltype(type)>;
    using S = typename Lane<T>::Scalar;
    const T* t = static_cast<const T*>(b.teacher);
    S* s = static_cast<S*>(weight);
    if (b.channels == 0)
      for (int64_t l = 0; l < b.locations; ++l) s[l] = 0;
    else if (b.channel_major)
      mask_locations(t, b.teacher_stride, b.channels, b.locations, s);
    else
      mask_rows(t, b.teacher_stride, b.channels, b.locations, s);
    for (int64_t begin = 0; begin < b.locations; begin += kRun) {
      double total = 0.0;
      const int64_t end = begin + kRun < b.locations ? begin + kRun : b.locations;
      for_vectors<S>(begin, end, [&](int64_t i, auto part) { total += sum(load(s + i, part)); });
      sums[begin / kRun] = total;
    }
  });
}

}  // namespace frs::cpu::FRS_ISA
