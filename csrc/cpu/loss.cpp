// The operator `loss`: mask, losses and gradients of all levels in one parallel region.
//
// With gradients, or with S given, a level has units that make (or sum) its S, and units that take the losses
// and gradients once the sum N_l is known. Without gradients and with S from the logits, mask and losses are
// one pass.
#include <cstring>
#include <memory>
#include <vector>

#include "operators.h"
#include "schedule.h"

namespace frs::cpu {
namespace {

enum class Kind { weigh, head, imitation, single };

struct Unit : Range {
  Kind kind;
  int64_t first_sum;  // where the sums of its runs (weigh, single) or segments go
};

// scale / Z_l of one term of one level, known once N_l is.
struct Factor {
  double value = 0.0;
  bool zero = true;  // Z_l == 0: the level contributes nothing, whatever its tensors hold
};

struct Slice {  // of the sums over runs, or over segments
  int64_t first = 0, last = 0;
};

struct LevelState {
  Countdown weighed;
  Slice runs, head_sums, feature_sums;
  Factor feature, head;
};

// sums[i] = sum of S over run i.
template <class S>
void sum_runs(const S* mask, int64_t locations, double* sums) {
  cut(locations, kRun, [&](int64_t begin, int64_t length) {
    double lanes[4] = {};
    for (int64_t i = 0; i < length; ++i) lanes[i % 4] += mask[begin + i];
    sums[begin / kRun] = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  });
}

class Loss {
 public:
  Loss(const LossParams& params, const DTypes& types, const Threads& threads)
      : p_(params), types_(types), threads_(threads), states_(new LevelState[params.num_levels]) {
    single_ = p_.mode == Mode::single_pass;
    plan();
  }

  void run() {
    Threads threads = threads_;
    if (elements_ < kSerialElements) threads.count = 1;
    run_units(static_cast<int64_t>(units_.size()), threads, [this](int64_t i) { run_unit(i); });
    finish();
  }

 private:
  static constexpr int64_t kSerialElements = 1 << 15;  // too little to wake threads for

  // Small levels first, so that their logits are still in the cache when the losses read them again; the
  // largest level's losses begin where its mask ended, for the same reason. Features need no cache.
  void plan() {
    std::vector<int> order(p_.num_levels);
    for (int l = 0; l < p_.num_levels; ++l) order[l] = l;
    auto locations = [&](int l) { return p_.levels[l].batch * p_.levels[l].locations; };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return locations(a) < locations(b); });
    for (int l : order) {
      plan_pass(l, single_ ? Kind::single : Kind::weigh);
      if (single_) continue;
      const size_t first = units_.size();
      if (p_.levels[l].head.student.present()) plan_tiles(l, Kind::head);
      std::reverse(units_.begin() + first, units_.end());
    }
    std::reverse(order.begin(), order.end());
    for (int l : order)
      if (!single_ && p_.levels[l].imitation.student.present()) plan_tiles(l, Kind::imitation);
    segment_sums_.resize(segments_);
    run_sums_.resize(runs_);
  }

  void plan_pass(int l, Kind kind) {
    const Level& v = p_.levels[l];
    const size_t before = units_.size();
    const bool logits = p_.mode != Mode::mask_given;
    const int64_t size = locations_per_pass(v, logits && !v.head.location_major(), threads_.count);
    states_[l].runs = {runs_, runs_ + v.batch * runs_of(v.locations)};
    for (int64_t image = 0; image < v.batch; ++image) {
      cut(v.locations, size, [&](int64_t begin, int64_t length) {
        units_.push_back({{l, image, 0, v.head.channels, begin, length}, kind, runs_ + begin / kRun});
      });
      runs_ += runs_of(v.locations);
    }
    elements_ += v.batch * v.locations * (logits ? v.head.channels : 1);
    states_[l].weighed.start(static_cast<int64_t>(units_.size() - before));
    if (units_.size() == before)
      states_[l].weighed.open();  // nothing to weigh: every Z_l that needs N_l is 0
  }

  void plan_tiles(int l, Kind kind) {
    const Level& v = p_.levels[l];
    const Term& term = kind == Kind::head ? v.head : v.imitation;
    const int64_t channels = term.channels;
    const bool channel_major = !term.location_major();
    const Tile tile = tile_of(v.batch, channels, v.locations, channel_major, threads_.count);
    const int64_t length = channel_major ? tile.locations : kSegment;  // of what has one sum
    Slice& sums = kind == Kind::head ? states_[l].head_sums : states_[l].feature_sums;
    sums.first = segments_;
    for (int64_t image = 0; image < v.batch; ++image) {
      cut(v.locations, tile.locations, [&](int64_t location, int64_t locations) {
        cut(channels, tile.channels, [&](int64_t channel, int64_t count) {
          const int64_t sum =
              segments_ + channel / tile.channels * ceil_div(v.locations, length) + location / length;
          units_.push_back({{l, image, channel, count, location, locations}, kind, sum});
        });
      });
      segments_ += ceil_div(channels, tile.channels) * ceil_div(v.locations, length);
    }
    sums.last = segments_;
    const int64_t elements = v.batch * v.locations * channels;
    elements_ += elements;
    const DType type = (kind == Kind::head ? types_.head : types_.imitation).student;
    if (term.grad.present()) grad_bytes_ += elements * static_cast<int64_t>(size_of(type));
  }

  void run_unit(int64_t i) {
    const Unit& u = units_[i];
    LevelState& state = states_[u.level];
    switch (u.kind) {
      case Kind::single:
        run_single(u);
        break;
      case Kind::weigh:
        weigh(u);
        if (state.weighed.finish_one()) {
          settle(u.level);
          state.weighed.open();
        }
        break;
      case Kind::head:
        state.weighed.wait();
        run_tile(head_block(u), state.head, kernels().head, &segment_sums_[u.first_sum]);
        break;
      case Kind::imitation:
        state.weighed.wait();
        run_tile(imitation_block(u), state.feature, kernels().imitation, &segment_sums_[u.first_sum]);
        break;
    }
  }

  Block head_block(const Range& r) const {
    const Level& v = p_.levels[r.level];
    return block_of(v, v.head, types_.head, types_.double_precision(), r);
  }
  Block imitation_block(const Range& r) const {
    const Level& v = p_.levels[r.level];
    return block_of(v, v.imitation, types_.imitation, types_.double_precision(), r);
  }

  void run_single(const Unit& u) {
    Range feats = u;
    feats.channels = p_.levels[u.level].imitation.channels;
    Block logits = head_block(u);
    logits.beta = p_.beta;
    Sums sums[kMaxMaskTile / kRun];
    kernels().single(logits, imitation_block(feats), sums);
    std::copy(sums, sums + runs_of(u.locations), run_sums_.begin() + u.first_sum);
  }

  void weigh(const Unit& u) {
    const Block b = head_block(u);
    double sums[kMaxMaskTile / kRun];
    if (p_.mode == Mode::mask_first)
      kernels().mask(b, const_cast<void*>(b.mask), sums);
    else if (types_.double_precision())
      sum_runs(static_cast<const double*>(b.mask), u.locations, sums);
    else
      sum_runs(static_cast<const float*>(b.mask), u.locations, sums);
    for (int64_t r = 0; r < runs_of(u.locations); ++r) run_sums_[u.first_sum + r].mask = sums[r];
  }

  // What losses and gradients that units have taken are still to be multiplied by: of float16, whose
  // gradients might leave their range, scale / Z_l.
  static double pending(const Factor& factor, DType type) {
    return pending_factor(type) ? factor.value : 1.0;
  }

  // The losses and gradients of a block. Where Z_l is 0: zero gradients, and the sums stay 0.
  void run_tile(Block b, const Factor& factor, void (*kernel)(const Block&, double*), double* sums) const {
    b.beta = p_.beta;
    b.factor = pending_factor(b.student_type) ? 1.0 : factor.value;
    b.non_temporal = grad_bytes_ > kStreamedBytes && streamable(b);
    if (!factor.zero) return kernel(b, sums);
    if (b.grad == nullptr) return;
    const size_t size = size_of(b.student_type);
    const int64_t rows = b.channel_major ? b.locations : b.channels;
    const int64_t length = b.channel_major ? b.channels : b.locations;
    for (int64_t r = 0; r < rows; ++r) std::memset(at(b.grad, r * b.grad_stride, size), 0, length * size);
  }

  double read(const Scalar& s) const {
    if (s.device == nullptr) return s.value;
    return s.value * (types_.double_precision() ? *static_cast<const double*>(s.device)
                                                : *static_cast<const float*>(s.device));
  }

  Factor factor_of(const Level& v, int64_t channels, double mask_sum, const Scalar& scale) const {
    const double z =
        normalizer_of(p_.normalizer, v.batch, channels, v.locations, mask_sum, read(p_.normalizer_value));
    return {z == 0.0 ? 0.0 : read(scale) / z, z == 0.0};
  }

  Sums sum_of_runs(int l) const {
    Sums total;
    for (int64_t r = states_[l].runs.first; r < states_[l].runs.last; ++r) {
      total.mask += run_sums_[r].mask;
      total.imitation += run_sums_[r].imitation;
      total.head += run_sums_[r].head;
    }
    return total;
  }

  double sum_of_segments(const Slice& slice) const {
    double total = 0.0;
    for (int64_t i = slice.first; i < slice.last; ++i) total += segment_sums_[i];
    return total;
  }

  void settle(int l) {
    const Level& v = p_.levels[l];
    const double weight = sum_of_runs(l).mask;
    states_[l].feature = factor_of(v, v.imitation.channels, weight, p_.feat_scale);
    states_[l].head = factor_of(v, v.head.channels, weight, p_.head_scale);
  }

  // The sums of runs or segments, in an order that does not follow the threads.
  void finish() {
    double feature = 0.0, head = 0.0;
    for (int l = 0; l < p_.num_levels; ++l) {
      const LevelState& state = states_[l];
      if (single_) {
        settle(l);
        const Sums sums = sum_of_runs(l);
        if (!state.feature.zero) feature += state.feature.value * sums.imitation;
        if (!state.head.zero) head += state.head.value * sums.head;
      } else {
        feature += pending(state.feature, types_.imitation.student) * sum_of_segments(state.feature_sums);
        head += pending(state.head, types_.head.student) * sum_of_segments(state.head_sums);
      }
    }
    types_.double_precision() ? write<double>(feature, head) : write<float>(feature, head);
  }

  template <class S>
  void write(double feature, double head) const {
    S* losses = static_cast<S*>(p_.losses);
    losses[0] = static_cast<S>(feature);
    losses[1] = static_cast<S>(head);
    losses[2] = losses[0] + losses[1];
    S* out = static_cast<S*>(p_.pending);
    for (int l = 0; l < p_.num_levels; ++l) {
      out[l] = static_cast<S>(pending(states_[l].feature, types_.imitation.student));
      out[p_.num_levels + l] = static_cast<S>(pending(states_[l].head, types_.head.student));
    }
  }

  const LossParams& p_;
  const DTypes& types_;
  const Threads& threads_;
  bool single_ = false;
  std::vector<Unit> units_;
  int64_t elements_ = 0, runs_ = 0, segments_ = 0, grad_bytes_ = 0;
  std::unique_ptr<LevelState[]> states_;
  std::vector<double> segment_sums_;  // of head and imitation units
  std::vector<Sums> run_sums_;        // of weigh and single units, one a run of locations
};

}  // namespace

void loss(const LossParams& params, const DTypes& types, const Threads& threads) {
  Loss(params, types, threads).run();
}

}  // namespace frs::cpu
