// The tensors and the arguments of a call of the loss, for benchmarks/gpu_check.cu.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "cuda/operators.h"
#include "gpu_roofs.cuh"
#include "gpu_truth.cuh"

using frs::DenseTensor, frs::DType, frs::DTypes, frs::Level, frs::LossParams, frs::Normalizer;
using frs::TensorView, frs::Term;
namespace cuda = frs::cuda;

struct Shapes {
  std::vector<std::pair<int, int>> sizes;
  int feat_channels, logit_channels;
};
const Shapes kRetinaNet{{{100, 168}, {50, 84}, {25, 42}, {13, 21}, {7, 11}}, 256, 720};
const Shapes kRagged{{{16, 24}, {13, 21}, {7, 11}, {1, 1}}, 40, 72};

// A call of the loss that is planned once, as in a captured graph.
std::function<void()> loss_call(Memory& memory, const LossParams& params, const DTypes& types) {
  cuda::LossPlan plan = cuda::plan_loss(params, types);
  void* workspace = memory.take(plan.workspace);
  return [plan, workspace]() mutable { CHECK(cuda::loss(plan, workspace, nullptr)); };
}

template <class T>
struct Problem {
  Memory memory;
  LossParams params;
  DTypes types;
  int batch;
  bool location_major;
  double logit_bytes = 0, feat_bytes = 0;
  std::vector<double> share;  // of each level in all locations

  Problem(DType type, const Shapes& shapes, int batch, bool location_major)
      : types{{type, type}, {type, type}}, batch(batch), location_major(location_major) {
    params.num_levels = static_cast<int>(shapes.sizes.size());
    params.mode = frs::Mode::mask_first;
    params.feat_scale.value = kFeatScale, params.head_scale.value = kHeadScale;
    params.losses = memory.take(3 * sizeof(double));
    params.level_losses = memory.take(2 * params.num_levels * sizeof(double));
    params.pending = memory.take(2 * params.num_levels * sizeof(double));
    double locations = 0;
    for (int l = 0; l < params.num_levels; ++l) {
      Level& v = params.levels[l];
      v.batch = batch, v.locations = shapes.sizes[l].first * shapes.sizes[l].second;
      fill_term(v.imitation, v, shapes.feat_channels, 0, 1);
      fill_term(v.head, v, shapes.logit_channels, -4, 2);
      v.mask = memory.take((batch * v.locations + 3) / 4 * 32);
      const double count = static_cast<double>(batch) * v.locations;
      logit_bytes += count * v.head.channels * sizeof(T);
      feat_bytes += count * v.imitation.channels * sizeof(T);
      share.push_back(count), locations += count;
    }
    for (double& count : share) count /= locations;
    CHECK(cudaDeviceSynchronize());
  }

  void fill_term(Term& term, const Level& v, int channels, float mean, float spread) {
    term.channels = channels;
    term.student = tensor(v, channels, mean, spread), term.teacher = tensor(v, channels, mean, spread);
    term.grad = tensor(v, channels, 0, 0);
  }

  TensorView tensor(const Level& v, int channels, float mean, float spread) {
    const size_t count = static_cast<size_t>(batch) * channels * v.locations;
    T* data = static_cast<T*>(memory.take(count * sizeof(T)));
    if (spread > 0) {
      fill<<<2048, kThreads>>>(data, count, mean, spread, seed_ += uint64_t{1} << 40);
    } else {
      CHECK(cudaMemset(data, 0xFF, count * sizeof(T)));  // NaN
    }
    return {data, channels * v.locations, location_major ? v.locations : 1, location_major ? 1 : channels};
  }

 private:
  uint64_t seed_ = 0;
};
