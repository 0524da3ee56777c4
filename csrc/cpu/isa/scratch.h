// The kernels' typed view of their thread's scratch memory (csrc/cpu/scratch.cpp).
#pragma once

#include <new>
#include <type_traits>

#include "../isa.h"
#include "../vec.h"

namespace frs::cpu::FRS_ISA {
namespace {

// An uninitialized T at `kOffset` bytes of the scratch memory.
template <class T, size_t kOffset = 0>
FRS_INLINE T& scratch_as() {
  static_assert(kOffset + sizeof(T) <= kScratchBytes && kOffset % alignof(T) == 0, "scratch memory");
  static_assert(std::is_trivially_default_constructible_v<T> && std::is_trivially_destructible_v<T>, "");
  return *new (static_cast<char*>(scratch()) + kOffset) T;
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
