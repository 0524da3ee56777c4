// The operator `scale_`, with which the backward multiplies gradients in place.
#include <vector>

#include "blocks.h"
#include "operators.h"
#include "tasks.h"

namespace frs::cpu {

void scale(const DenseTensor* grads, int count, const void* grad_output, const void* pending,
           const Threads& threads) {
  struct Task {
    char* data;
    int64_t size;
    DType type;
    double factor;
  };
  constexpr int64_t kElements = 1 << 17;  // per task
  std::vector<Task> tasks;
  for (int i = 0; i < count; ++i) {
    const DenseTensor& grad = grads[i];
    auto product = [&](auto* a, auto* b) -> double { return a[0] * b[i]; };
    const double factor =
        grad.type == DType::f64
            ? product(static_cast<const double*>(grad_output), static_cast<const double*>(pending))
            : product(static_cast<const float*>(grad_output), static_cast<const float*>(pending));
    if (factor == 1.0) continue;
    split(grad.size, kElements, [&](int64_t begin, int64_t length) {
      tasks.push_back({at(grad.data, begin, size_of(grad.type)), length, grad.type, factor});
    });
  }
  run_tasks(static_cast<int64_t>(tasks.size()), threads, [&](int64_t i) {
    kernels().scale(tasks[i].data, tasks[i].size, tasks[i].type, tasks[i].factor);
  });
}

}  // namespace frs::cpu
