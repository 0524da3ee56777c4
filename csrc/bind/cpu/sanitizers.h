// What the sanitizers cannot see for themselves, see tests/sanitizers.py. In other builds it does nothing.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace frs::sanitizers {

// Memory that does not come from malloc: of `bytes` bytes at `data`, only the first `usable` may be used.
inline void limit_use([[maybe_unused]] void* data, [[maybe_unused]] size_t usable,
                      [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(data, usable);
  __asan_poison_memory_region(static_cast<char*>(data) + usable, bytes - usable);
#endif
}

// Threads that wait for each other in a library built without ThreadSanitizer: what one does before `release`
// happens before what another does after `acquire` of the same address.
inline void release([[maybe_unused]] const void* address) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(const_cast<void*>(address));
#endif
}
inline void acquire([[maybe_unused]] const void* address) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(const_cast<void*>(address));
#endif
}

}  // namespace frs::sanitizers
