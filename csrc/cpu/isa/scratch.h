// What a kernel keeps of the locations of its block, in the scratch memory of its thread.
#pragma once

#include <new>
#include <type_traits>

#include "../isa.h"
#include "../vec.h"

namespace frs::cpu::FRS_ISA {
namespace {

// A T that begins `kOffset` bytes into the memory, its values whatever lies there.
template <class T, size_t kOffset = 0>
FRS_INLINE T& in_scratch() {
  static_assert(kOffset + sizeof(T) <= kScratchBytes && kOffset % alignof(T) == 0, "scratch memory");
  static_assert(std::is_trivially_default_constructible_v<T> && std::is_trivially_destructible_v<T>, "");
  return *new (static_cast<char*>(scratch()) + kOffset) T;
}

}  // namespace
}  // namespace frs::cpu::FRS_ISA
