// The tasks of one call of the operator `kl`, and where they put their sums.
#pragma once

#include <deque>
#include <vector>

#include "normalizer.h"
#include "tasks.h"

namespace frs::cpu {

// The distributions of one level.
struct KLLevelState {
  const KLLevel* level = nullptr;
  KLForm form = KLForm::columns;
  int64_t groups = 1;
  int64_t per_image = 0;  // distributions in each group: locations, or channels
  int64_t bins = 0;
  int64_t first_run = 0, last_run = 0;  // sums of w
  int64_t first_sum = 0, last_sum = 0;  // sums of w KL, as many for every image
  Factor factor;                        // known once all w are summed
};

// Distributions that are larger than a tile: some of one image and group.
struct LargeDistributions {
  Latch statistics;  // opens when those of all parts are merged
  int64_t first_value = 0, parts = 0, values_per_part = 0;
  int64_t sum = 0;
};

enum class KLPass { weights, whole, statistics, gradient };

struct KLTask {
  KLPass pass;
  int level;
  int64_t image;
  int64_t group = 0, groups = 1;
  int64_t distribution = 0, distributions = 0;
  int64_t bin = 0, bins = 0;
  int64_t width = 0, tile_bins = 0;     // of a tile
  int64_t sum = 0;                      // index of the first sum over a run, or of the sum of w KL
  LargeDistributions* large = nullptr;  // of the passes statistics and gradient
  int64_t part = 0;
};

class KLPlan {
 public:
  KLPlan(const KLParams& params, bool double_precision);

  std::vector<KLTask> tasks;  // in the order in which they start
  std::vector<KLLevelState> levels;
  std::deque<LargeDistributions> large;
  int64_t runs = 0, sums = 0, values = 0;  // sums of w, of w KL, and numbers in statistics
  int64_t weight_tasks = 0;
  int64_t elements = 0, grad_elements = 0;

 private:
  void add_weights(int l);
  void add_level(int l, bool double_precision);
  void add_whole(int l, int64_t image, int64_t width);
  void add_large(int l, int64_t image);
  void add_gradients();

  std::vector<KLTask> gradients_;  // of the latest large distributions
};

}  // namespace frs::cpu
