// The operators `mask` and `scale_`: units over all levels in one parallel region.
#include <vector>

#include "operators.h"
#include "schedule.h"

namespace frs::cpu {

void mask(const Level* levels, int num_levels, DType teacher, const Threads& threads) {
  std::vector<Range> units;
  for (int l = 0; l < num_levels; ++l) {
    const Level& v = levels[l];
    const int64_t size = locations_per_pass(v, !v.head.location_major(), threads.count);
    for (int64_t image = 0; image < v.batch; ++image)
      cut(v.locations, size, [&](int64_t begin, int64_t length) {
        units.push_back({l, image, 0, v.head.channels, begin, length});
      });
  }
  run_units(static_cast<int64_t>(units.size()), threads, [&](int64_t i) {
    double unused[kMaxMaskTile / kRun];
    const Level& v = levels[units[i].level];
    const Block b = block_of(v, v.head, {DType::f32, teacher}, teacher == DType::f64, units[i]);
    kernels().mask(b, const_cast<void*>(b.mask), unused);
  });
}

void scale(const DenseTensor* grads, int count, const void* factor, const void* pending,
           const Threads& threads) {
  struct Piece {
    char* data;
    int64_t size;
    DType type;
    double factor;
  };
  constexpr int64_t kElements = 1 << 17;
  std::vector<Piece> units;
  for (int i = 0; i < count; ++i) {
    const DenseTensor& s = grads[i];
    const double product =
        s.type == DType::f64 ? static_cast<const double*>(factor)[0] * static_cast<const double*>(pending)[i]
                             : static_cast<const float*>(factor)[0] * static_cast<const float*>(pending)[i];
    if (product == 1.0) continue;
    cut(s.size, kElements, [&](int64_t begin, int64_t length) {
      units.push_back({at(s.data, begin, size_of(s.type)), length, s.type, product});
    });
  }
  run_units(static_cast<int64_t>(units.size()), threads, [&](int64_t i) {
    kernels().scale(units[i].data, units[i].size, units[i].type, units[i].factor);
  });
}

}  // namespace frs::cpu
