// See cuda_runtime.h.
#pragma once

#include "cuda_runtime.h"

inline void __pipeline_memcpy_async(void* target, const void* source, size_t size) {
  if (reinterpret_cast<uintptr_t>(target) % size || reinterpret_cast<uintptr_t>(source) % size)
    __builtin_trap();
  emulator::copy_later(target, source, size);
}
inline void __pipeline_commit() { emulator::commit_copies(); }
inline void __pipeline_wait_prior(unsigned groups_left) { emulator::wait_for_copies(groups_left); }
