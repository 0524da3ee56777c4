// The operator `mask`: the masks of all levels in one parallel region.
#include <vector>

#include "blocks.h"
#include "operators.h"
#include "tasks.h"

namespace frs::cpu {

void mask(const Level* levels, int num_levels, DType teacher, const Threads& threads) {
  std::vector<Tile> tiles;
  for (int l = 0; l < num_levels; ++l) {
    const Level& level = levels[l];
    const int64_t size = mask_tile_locations(level, !level.head.location_major(), threads.count);
    for (int64_t image = 0; image < level.batch; ++image)
      split(level.locations, size, [&](int64_t begin, int64_t length) {
        tiles.push_back({l, image, 0, level.head.channels, begin, length});
      });
  }
  run_tasks(static_cast<int64_t>(tiles.size()), threads, [&](int64_t i) {
    double unused_sums[kMaxMaskTile / kRun];
    const Level& level = levels[tiles[i].level];
    const Block b = block_of(level, level.head, {DType::f32, teacher}, teacher == DType::f64, tiles[i]);
    kernels().mask(b, const_cast<void*>(b.mask), unused_sums);
  });
}

}  // namespace frs::cpu
