// The operator `loss`: mask, losses and gradients of all levels in one parallel region.
//
// With gradients, or with S given, a level has units that make (or sum) its S, and units that take the losses
// and gradients once the sum N_l is known. Without gradients and with S from the logits, mask and losses are
// one pass.
#include <cstring>
#include <memory>
#include <vector>

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
void sum_runs(const S* weight, int64_t locations, double* sums) {
  cut(locations, kRun, [&](int64_t begin, int64_t length) {
    double lanes[4] = {};
    for (int64_t i = 0; i < length; ++i) lanes[i % 4] += weight[begin + i];
    sums[begin / kRun] = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  });
}

class Loss {
 public:
  Loss(const LossParams& params, const DTypes& types, const Threads& threads)
      : p_(params), types_(types), threads_(threads), states_(new LevelState[params.num_levels]) {
    single_ = p_.mask_from_logits && p_.levels[0].weight == nullptr;
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
      if (p_.levels[l].student_logit.data != nullptr) plan_tiles(l, Kind::head);
      std::reverse(units_.begin() + first, units_.end());
    }
    std::reverse(order.begin(), order.end());
    for (int l : order)
      if (!single_ && p_.levels[l].student_feat.data != nullptr) plan_tiles(l, Kind::imitation);
    segment_sums_.resize(segments_);
    run_sums_.resize(runs_);
  }

  void plan_pass(int l, Kind kind) {
    const Level& v = p_.levels[l];
    const size_t before = units_.size();
    const bool logits = p_.mask_from_logits;
    const int64_t size = locations_per_pass(v, logits && !logit_location_major(v), threads_.count);
    states_[l].runs = {runs_, runs_ + v.batch * runs_of(v.locations)};
    for (int64_t image = 0; image < v.batch; ++image) {
      cut(v.locations, size, [&](int64_t begin, int64_t length) {
        units_.push_back({{l, image, 0, v.logit_channels, begin, length}, kind, runs_ + begin / kRun});
      });
      runs_ += runs_of(v.locations);
    }
    elements_ += v.batch * v.locations * (logits ? v.logit_channels : 1);
    states_[l].weighed.start(static_cast<int64_t>(units_.size() - before));
    if (units_.size() == before)
      states_[l].weighed.open();  // nothing to weigh: every Z_l that needs N_l is 0
  }

  void plan_tiles(int l, Kind kind) {
    const Level& v = p_.levels[l];
    const int64_t channels = kind == Kind::head ? v.logit_channels : v.feat_channels;
    const bool channel_major = kind == Kind::head ? !logit_location_major(v) : !feat_location_major(v);
    const Tile tile = tile_of(v.batch, channels, v.locations, channel_major, threads_.count);
    const int64_t length = channel_major ? tile.locations : kSegment;  // of what has one sum
    Slice& sums = kind == Kind::head ? states_[l].head_sums : states_[l].feature_sums;
    sums.first = segments_;
    for (int64_t image = 0; image < v.batch; ++image) {
      cut(v.locations, tile.locations, [&](int64_t location, int64_t locations) {
        cut(channels, tile.channels, [&](int64_t channel, int64_t count) {
          const int64_t sum =
              segments_ + channel / tile.channels * pieces(v.locations, length) + location / length;
          units_.push_back({{l, image, channel, count, location, locations}, kind, sum});
        });
      });
      segments_ += pieces(channels, tile.channels) * pieces(v.locations, length);
    }
    sums.last = segments_;
    const int64_t elements = v.batch * v.locations * channels;
    elements_ += elements;
    const bool grad = (kind == Kind::head ? v.logit_grad : v.feat_grad).data != nullptr;
    const DType type = kind == Kind::head ? types_.student_logit : types_.student_feat;
    if (grad) grad_bytes_ += elements * static_cast<int64_t>(size_of(type));
  }

  void run_unit(int64_t i) {
    const Unit& u = units_[i];
    const Level& v = p_.levels[u.level];
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
        run_tile(logit_block(v, u, types_), state.head, kernels().head, &segment_sums_[u.first_sum]);
        break;
      case Kind::imitation:
        state.weighed.wait();
        run_tile(feat_block(v, u, types_), state.feature, kernels().imitation, &segment_sums_[u.first_sum]);
        break;
    }
  }

  void run_single(const Unit& u) {
    const Level& v = p_.levels[u.level];
    Range feats = u;
    feats.channels = v.feat_channels;
    Block logits = logit_block(v, u, types_);
    logits.beta = p_.beta;
    Sums sums[kMaxSingle / kRun];
    kernels().single(logits, feat_block(v, feats, types_), sums);
    std::copy(sums, sums + runs_of(u.locations), run_sums_.begin() + u.first_sum);
  }

  void weigh(const Unit& u) {
    const Block b = logit_block(p_.levels[u.level], u, types_);
    double sums[kMaxSingle / kRun];
    if (p_.mask_from_logits)
      kernels().mask(b, const_cast<void*>(b.weight), sums);
    else if (types_.double_precision())
      sum_runs(static_cast<const double*>(b.weight), u.locations, sums);
    else
      sum_runs(static_cast<const float*>(b.weight), u.locations, sums);
    for (int64_t r = 0; r < runs_of(u.locations); ++r) run_sums_[u.first_sum + r].weight = sums[r];
  }

  // What losses and gradients that units have taken are still to be multiplied by: of float16, whose
  // gradients might leave their range, scale / Z_l.
  static double pending(const Factor& factor, DType type) { return type == DType::f16 ? factor.value : 1.0; }

  // The losses and gradients of a block. Where Z_l is 0: zero gradients, and the sums stay 0.
  void run_tile(Block b, const Factor& factor, void (*kernel)(const Block&, double*), double* sums) const {
    b.beta = p_.beta;
    b.factor = b.student_type == DType::f16 ? 1.0 : factor.value;
    b.streamed = grad_bytes_ > kStreamedBytes && streamable(b);
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

  Factor factor_of(const Level& v, int64_t channels, double weight, const Scalar& scale) const {
    double z = 0.0;
    switch (p_.normalizer) {
      case Normalizer::weight:
        z = weight;
        break;
      case Normalizer::weight_channels:
        z = static_cast<double>(channels) * weight + 1e-9;
        break;
      case Normalizer::batch:
        z = static_cast<double>(v.batch);
        break;
      case Normalizer::numel:
        z = static_cast<double>(v.batch * channels * v.locations);
        break;
      case Normalizer::value:
        z = read(p_.divisor);
        break;
    }
    return {z == 0.0 ? 0.0 : read(scale) / z, z == 0.0};
  }

  Sums sum_of_runs(int l) const {
    Sums total;
    for (int64_t r = states_[l].runs.first; r < states_[l].runs.last; ++r) {
      total.weight += run_sums_[r].weight;
      total.feature += run_sums_[r].feature;
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
    const double weight = sum_of_runs(l).weight;
    states_[l].feature = factor_of(v, v.feat_channels, weight, p_.feat_scale);
    states_[l].head = factor_of(v, v.logit_channels, weight, p_.head_scale);
  }

  // The sums of runs or segments, in an order that does not follow the threads.
  void finish() {
    double feature = 0.0, head = 0.0;
    for (int l = 0; l < p_.num_levels; ++l) {
      const LevelState& state = states_[l];
      if (single_) {
        settle(l);
        const Sums sums = sum_of_runs(l);
        if (!state.feature.zero) feature += state.feature.value * sums.feature;
        if (!state.head.zero) head += state.head.value * sums.head;
      } else {
        feature += pending(state.feature, types_.student_feat) * sum_of_segments(state.feature_sums);
        head += pending(state.head, types_.student_logit) * sum_of_segments(state.head_sums);
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
      out[l] = static_cast<S>(pending(states_[l].feature, types_.student_feat));
      out[p_.num_levels + l] = static_cast<S>(pending(states_[l].head, types_.student_logit));
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
