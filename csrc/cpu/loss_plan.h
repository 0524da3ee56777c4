// The tasks of one call of the operator `loss`, and where they put their sums.
#pragma once

#include <memory>
#include <vector>

#include "blocks.h"
#include "normalizer.h"
#include "tasks.h"

namespace frs::cpu {

// Which of the partial sums belong to a level: the same number for every image, one image after another.
struct SumRange {
  int64_t first = 0, last = 0;

  // Those of one of the level's images; for images == 1, of all together.
  SumRange of_image(int64_t image, int64_t images) const {
    const int64_t count = (last - first) / images;
    return {first + image * count, first + (image + 1) * count};
  }
};

// One term of one level.
struct TermState {
  const Term* term = nullptr;
  TermTypes types;
  SumRange sums;  // of the loss pass
  Factor factor;  // known once the masks of the level's group are summed

  double applied() const { return factor.applied(types.student); }
  double pending() const { return factor.pending(types.student); }

  // The loss from a sum of the single pass, which lacks both parts. 0 for an absent term, even if S is NaN.
  double loss(double sum) const { return term->student.present() ? factor.times(sum) : 0.0; }
};

// Levels [first, last) whose normalizers contain one sum of S: that over all of them. A level on its own,
// unless the normalizer spans the levels.
struct alignas(64) LevelGroup {  // no cache line is shared by the latches of two groups
  Latch mask_pass;               // opens when the factors of both terms are known
  int first = 0, last = 0;
};

struct LevelState {
  LevelGroup* group = nullptr;
  SumRange mask_runs;  // of the mask pass or single pass
  TermState imitation, head;
};

enum class Pass {
  mask,    // S of a tile and its sums; if S is given, the sums alone
  loss,    // losses and gradients of one term
  single,  // S and the losses of both terms, without gradients
};

struct Task {
  Pass pass;
  TermState* term;  // of a loss pass
  Tile tile;
  int64_t first_sum;  // index of the tile's first partial sum: per run, or in a loss pass per segment
};

class LossPlan {
 public:
  LossPlan(const LossParams& params, const DTypes& types, int threads);

  std::vector<Task> tasks;  // in the order in which they start
  std::vector<LevelState> levels;
  std::unique_ptr<LevelGroup[]> groups;
  int num_groups = 0;
  int64_t runs = 0, segments = 0;  // partial sums over runs, and over segments in loss passes
  int64_t elements = 0;            // read in all passes together, per tensor pair
  int64_t grad_bytes = 0;

 private:
  void add_groups(bool one_for_all);
  void add_mask_pass(const Level& level, int l, Pass pass, bool reads_logits, int threads);
  void add_loss_pass(const Level& level, int l, TermState& term, int threads);
};

}  // namespace frs::cpu
