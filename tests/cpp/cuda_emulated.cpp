// The binding of the CUDA kernels over the emulator: the same operators, for CPU tensors.
#define USE_CUDA
#define aoti_torch_get_current_cuda_stream emulated_current_stream
#define aoti_torch_create_device_guard emulated_create_guard
#define aoti_torch_delete_device_guard emulated_delete_guard
#define torch_c10_cuda_check_msg emulated_check
#define torch_c10_cuda_free_error_msg emulated_free

#include <torch/csrc/stable/c/shim.h>

extern "C" {
AOTITorchError emulated_current_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
AOTITorchError emulated_create_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return 0;
}
AOTITorchError emulated_delete_guard(DeviceGuardHandle) { return 0; }
AOTITorchError emulated_check(int32_t, const char*, const char*, uint32_t, bool, char** message) {
  *message = nullptr;  // no launch of the emulator fails
  return 0;
}
void emulated_free(char*) {}
}

#include "bind/cuda/operators.cpp"
#include "cuda/head.cuh"

extern "C" void emulated_log1p_nonnegative(const float* q, float* result, int64_t count) {
  for (int64_t i = 0; i < count; ++i) result[i] = frs::cuda::log1p_nonnegative(q[i]);
}
