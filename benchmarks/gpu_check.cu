// The errors and the times of the native CUDA kernels, without torch or Python. It takes seconds, so it runs
// first on a GPU, and it is the program that compute-sanitizer and ncu examine.
//
//   SOURCES="benchmarks/gpu_check.cu csrc/cuda/*.cu"
//   nvcc -O3 -std=c++17 -arch=native -Icsrc -Icsrc/include $SOURCES -o build/gpu_check
//
//   build/gpu_check [BATCH]     RetinaNet 800x1344, 16 images: errors against float64, microseconds
//   build/gpu_check 16 whole    the same with the times of the whole loss and of its mask kernel alone
//   build/gpu_check 16 once     the whole loss once for each dtype and layout, no times: for ncu
//   build/gpu_check 2 tiny      small ragged levels, every kernel once, no times: for compute-sanitizer
//
// Exit status 1 if a result is wrong or a CUDA call fails.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#include "gpu_problem.cuh"

namespace {

// Copies values in the accumulation dtype to the host.
template <class T>
std::vector<double> host_values(const void* device, size_t count) {
  using Acc = std::conditional_t<sizeof(T) == 8, double, float>;
  std::vector<Acc> host(count);
  CHECK(cudaMemcpy(host.data(), device, count * sizeof(Acc), cudaMemcpyDeviceToHost));
  return {host.begin(), host.end()};
}

template <class T>
bool is_right(Problem<T>& p, const char* name) {
  const int levels = p.params.num_levels;
  const std::vector<double> results = host_values<T>(p.params.losses, 3),
                            level_losses = host_values<T>(p.params.level_losses, 2 * levels),
                            pending = host_values<T>(p.params.pending, 2 * levels);
  auto* sums = static_cast<double*>(p.memory.take(8 * sizeof(double)));
  double losses[2] = {}, norms[4] = {}, level = 0;
  for (int l = 0; l < levels; ++l) {
    const Level& v = p.params.levels[l];
    const int count = p.batch * static_cast<int>(v.locations);
    auto data = [](const TensorView& view) { return static_cast<const T*>(view.data); };
    const Truth<T> truth{data(v.imitation.student),
                         data(v.imitation.teacher),
                         data(v.head.student),
                         data(v.head.teacher),
                         data(v.imitation.grad),
                         data(v.head.grad),
                         p.batch,
                         static_cast<int>(v.imitation.channels),
                         static_cast<int>(v.head.channels),
                         static_cast<int>(v.locations),
                         p.location_major,
                         {pending[l], pending[levels + l]},
                         static_cast<double*>(p.memory.take(count * sizeof(double))),
                         sums};
    CHECK(cudaMemset(sums, 0, 8 * sizeof(double)));
    true_sums<<<(count + kThreads - 1) / kThreads, kThreads>>>(truth);
    gradient_errors<<<(count + kThreads - 1) / kThreads, kThreads>>>(truth);
    double host[7];
    CHECK(cudaMemcpy(host, sums, sizeof host, cudaMemcpyDeviceToHost));
    const double terms[2] = {kFeatScale * host[1] / host[0], kHeadScale * host[2] / host[0]};
    for (int term = 0; term < 2; ++term) {
      losses[term] += terms[term];
      const double error = fabs(level_losses[term * levels + l] / terms[term] - 1);
      level = error <= level ? level : error;  // keeps NaN
    }
    for (int j = 0; j < 4; ++j) norms[j] += host[3 + j];
  }
  const double feature = fabs(results[0] / losses[0] - 1), head = fabs(results[1] / losses[1] - 1);
  const double dx = sqrt(norms[0] / norms[1]), ds = sqrt(norms[2] / norms[3]);
  const double limit = sizeof(T) == 2 ? 4e-3 : 5e-6;
  const bool right = feature < 1e-5 && head < 1e-5 && level < 1e-5 && dx < limit && ds < limit;
  printf("%s %s B=%d: %s, relative errors: feature %.1e head %.1e levels %.1e dx %.1e ds %.1e\n", name,
         p.location_major ? "nchw" : "channels_last", p.batch, right ? "right" : "WRONG", feature, head,
         level, dx, ds);
  return right;
}

// Whether the losses of the images add up to those of the batch.
template <class T>
bool images_add_up(Problem<T>& p) {
  const std::vector<double> losses = host_values<T>(p.params.losses, 3);
  LossParams params = p.params;
  params.per_image = true;
  params.losses = p.memory.take(3 * p.batch * sizeof(double));
  loss_call(p.memory, params, p.types)();
  const std::vector<double> images = host_values<T>(params.losses, 3 * p.batch);
  double error = 0;
  for (int row = 0; row < 3; ++row) {
    double sum = 0;
    for (int b = 0; b < p.batch; ++b) sum += images[row * p.batch + b];
    const double difference = fabs(sum / losses[row] - 1);
    error = difference <= error ? error : difference;  // keeps NaN
  }
  printf("  losses per image: %s, relative error of their sum %.1e\n", error < 1e-5 ? "right" : "WRONG",
         error);
  return error < 1e-5;
}

// With masks and Z given, there is only the loss kernel, after a memset of four bytes.
LossParams masks_given(LossParams p) {
  p.mode = frs::Mode::mask_given;
  p.normalizer = Normalizer::batch;
  return p;
}
LossParams no_gradients(LossParams p) {
  p.mode = frs::Mode::single_pass;
  for (Level& v : p.levels) v.imitation.grad = v.head.grad = {}, v.mask = nullptr;
  return p;
}
LossParams one_term(LossParams p, bool head) {
  for (Level& v : p.levels) {
    (head ? v.imitation : v.head) = {};
  }
  return p;
}
LossParams one_level(LossParams p, int level) {
  p.levels[0] = p.levels[level];
  p.num_levels = 1;
  return p;
}

// The backward, with one factor for all images or, if `per_image`, with as many as there are images.
template <class T>
std::function<void()> scale_call(Problem<T>& p, float factor, bool per_image = false) {
  std::vector<DenseTensor> grads;
  for (Term Level::* term : {&Level::imitation, &Level::head}) {
    for (int l = 0; l < p.params.num_levels; ++l) {
      const Level& v = p.params.levels[l];
      const int64_t size = p.batch * (v.*term).channels * v.locations;
      grads.push_back({(v.*term).grad.data, size, p.types.imitation.student});
    }
  }
  using Acc = std::conditional_t<sizeof(T) == 8, double, float>;
  const int64_t images = per_image ? p.batch : 1;
  std::vector<Acc> factors(grads.size(), 1);  // pending, and the incoming gradient
  factors.insert(factors.end(), images, factor);
  Acc* device = static_cast<Acc*>(p.memory.take(factors.size() * sizeof(Acc)));
  CHECK(cudaMemcpy(device, factors.data(), factors.size() * sizeof(Acc), cudaMemcpyHostToDevice));
  return [grads, images, device] {
    const int count = static_cast<int>(grads.size());
    CHECK(cuda::scale(grads.data(), count, images, device + count, device, nullptr));
  };
}

template <class T>
double seconds_of_loss(Problem<T>& p, const LossParams& params) {
  return seconds(loss_call(p.memory, params, p.types));
}
template <class T>
double seconds_of_mask(Problem<T>& p, const Level* levels, int count) {
  return seconds([&] { CHECK(cuda::mask(levels, count, p.types.head.teacher, nullptr)); });
}

template <class T>
void time_whole(Problem<T>& p) {
  const double C = p.logit_bytes, F = p.feat_bytes;
  report("whole, 4C + 3F", seconds_of_loss(p, p.params), 4 * C + 3 * F);
  report("mask, C", seconds_of_mask(p, p.params.levels, p.params.num_levels), C);
}

template <class T>
void time_parts(Problem<T>& p) {
  const double C = p.logit_bytes, F = p.feat_bytes;
  report("masks given, 3C + 3F", seconds_of_loss(p, masks_given(p.params)), 3 * C + 3 * F);
  report("no gradients, 2C + 2F", seconds_of_loss(p, no_gradients(p.params)), 2 * C + 2 * F);
  report("head of given masks, 3C", seconds_of_loss(p, one_term(masks_given(p.params), true)), 3 * C);
  report("imitation of given masks, 3F", seconds_of_loss(p, one_term(masks_given(p.params), false)), 3 * F);
  for (int l = 0; l < p.params.num_levels; ++l) {
    char what[32];
    snprintf(what, sizeof what, "level %d: whole", l);
    report(what, seconds_of_loss(p, one_level(p.params, l)), p.share[l] * (4 * C + 3 * F));
    snprintf(what, sizeof what, "level %d: mask", l);
    report(what, seconds_of_mask(p, p.params.levels + l, 1), p.share[l] * C);
  }
  report("scale_ by 1, nothing", seconds(scale_call(p, 1.0f)), 0);
  report("scale_ by another, 2C + 2F", seconds(scale_call(p, 1.0009765625f)), 2 * C + 2 * F);
}

// Runs the other kernels of this dtype once, for compute-sanitizer.
template <class T>
void run_other_kernels(Problem<T>& p) {
  LossParams focal = p.params;
  focal.beta = 2.0;
  LossParams images = no_gradients(p.params);
  images.per_image = true;
  images.losses = p.memory.take(3 * p.batch * sizeof(double));
  for (const LossParams& params :
       {masks_given(p.params), no_gradients(p.params), images, focal, no_gradients(focal)}) {
    loss_call(p.memory, params, p.types)();
  }
  LossParams sums = masks_given(p.params);
  for (Normalizer normalizer : {Normalizer::mask, Normalizer::mask_all_levels}) {
    sums.normalizer = normalizer;
    loss_call(p.memory, sums, p.types)();
  }
  CHECK(cuda::mask(p.params.levels, p.params.num_levels, p.types.head.teacher, nullptr));
  scale_call(p, 0.5f)();
  scale_call(p, 0.5f, true)();
}

enum class Mode { times, whole, once, tiny };

template <class T>
bool run(DType type, const char* name, int batch, Mode mode) {
  bool right = true;
  for (bool location_major : {true, false}) {
    Problem<T> p(type, mode == Mode::tiny ? kRagged : kRetinaNet, batch, location_major);
    loss_call(p.memory, p.params, p.types)();
    right &= is_right(p, name);
    if (mode == Mode::times || mode == Mode::tiny) right &= images_add_up(p);
    if (mode == Mode::tiny) run_other_kernels(p);
    if (mode <= Mode::whole) time_whole(p);
    if (mode == Mode::times) time_parts(p);
    CHECK(cudaDeviceSynchronize());
  }
  return right;
}

}  // namespace

int main(int argc, char** argv) {
  const int batch = argc > 1 ? atoi(argv[1]) : 16;
  const char* name = argc > 2 ? argv[2] : "";
  Mode mode = Mode::times;
  if (!strcmp(name, "whole")) mode = Mode::whole;
  if (!strcmp(name, "once")) mode = Mode::once;
  if (!strcmp(name, "tiny")) mode = Mode::tiny;
  setvbuf(stdout, nullptr, _IOLBF, 0);
  cudaDeviceProp device;
  CHECK(cudaGetDeviceProperties(&device, 0));
  printf("%s, %d multiprocessors, L2 %d MB\n", device.name, device.multiProcessorCount,
         device.l2CacheSize >> 20);
  if (mode <= Mode::whole) measure_roofs(device.multiProcessorCount);
  bool right = run<__nv_bfloat16>(DType::bf16, "bf16", batch, mode);
  right &= run<float>(DType::f32, "fp32", batch, mode);
  if (mode == Mode::tiny) {
    right &= run<__half>(DType::f16, "fp16", batch, mode);
    right &= run<double>(DType::f64, "fp64", batch, mode);
  }
  CHECK(cudaDeviceSynchronize());
  return right ? 0 : 1;
}
