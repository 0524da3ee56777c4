// The FRS mask: S[l] = max_c sigmoid(T[c, l]) = sigmoid(max_c T[c, l]), one sigmoid per location.
#include "../isa.h"
#include "../vec.h"
#include "maximum.h"

namespace frs::cpu::FRS_ISA {
namespace {

// t [channels, locations] with row stride `stride`; S [locations] holds the running maximum first.
template <class T, class S>
void location_major(const T* t, int64_t stride, int64_t channels, int64_t locations, S* mask) {
  for_vectors<T>(0, locations, [&](int64_t i, auto extent) { store(mask + i, extent, minus_infinity<S>()); });
  update_max(t, stride, channels, locations, mask);
  for_vectors<T>(0, locations,
                 [&](int64_t i, auto extent) { store(mask + i, extent, sigmoid(load(mask + i, extent))); });
}

// t [locations, channels] with row stride `stride`; S [locations].
template <class T, class S>
void channel_major(const T* t, int64_t stride, int64_t channels, int64_t locations, S* mask) {
  for (int64_t l = 0; l < locations; ++l) mask[l] = sigmoid(maximum(t + l * stride, channels));
}

}  // namespace

void mask(const Block& b, void* mask, double* sums) {
  with_types(b.teacher_type, b.teacher_type == DType::f64 ? DType::f64 : DType::f32, [&](auto* type, auto*) {
    using T = std::remove_pointer_t<decltype(type)>;
    using S = typename VectorOf<T>::Scalar;
    const T* t = static_cast<const T*>(b.teacher);
    S* out = static_cast<S*>(mask);
    if (b.channels == 0)
      for (int64_t l = 0; l < b.locations; ++l) out[l] = 0;
    else if (b.channel_major)
      channel_major(t, b.teacher_stride, b.channels, b.locations, out);
    else
      location_major(t, b.teacher_stride, b.channels, b.locations, out);
    for (int64_t begin = 0; begin < b.locations; begin += kRun) {
      double total = 0.0;
      const int64_t end = begin + kRun < b.locations ? begin + kRun : b.locations;
      for_vectors<S>(begin, end, [&](int64_t i, auto extent) { total += sum(load(out + i, extent)); });
      sums[begin / kRun] = total;
    }
  });
}

}  // namespace frs::cpu::FRS_ISA
