// The operator `scale_`, with which the backward multiplies gradients in place.
#include <vector>

#include "blocks.h"
#include "operators.h"
#include "tasks.h"

namespace frs::cpu {
namespace {

struct ScaleTask {
  char* data;
  int64_t size;
  DType type;
  double factor;
};

// grad_output[image] * pending[i], rounded to S, the accumulation dtype.
template <class S>
double factor_of(const void* grad_output, int64_t image, const void* pending, int i) {
  return static_cast<const S*>(grad_output)[image] * static_cast<const S*>(pending)[i];
}

}  // namespace

void scale(const DenseTensor* grads, int count, int64_t images, const void* grad_output, const void* pending,
           const Threads& threads) {
  constexpr int64_t kElements = 1 << 17;  // per task
  std::vector<ScaleTask> tasks;
  for (int i = 0; i < count; ++i) {
    const DenseTensor& grad = grads[i];
    const auto factor_in = grad.type == DType::f64 ? factor_of<double> : factor_of<float>;
    for (int64_t image = 0; image < images; ++image) {
      const double factor = factor_in(grad_output, image, pending, i);
      if (factor == 1.0) continue;
      const int64_t size = grad.size / images;
      split(size, kElements, [&](int64_t begin, int64_t length) {
        char* const data = at(grad.data, image * size + begin, size_of(grad.type));
        tasks.push_back({data, length, grad.type, factor});
      });
    }
  }
  run_tasks(static_cast<int64_t>(tasks.size()), threads, [&](int64_t i) {
    kernels().scale(tasks[i].data, tasks[i].size, tasks[i].type, tasks[i].factor);
  });
}

}  // namespace frs::cpu
