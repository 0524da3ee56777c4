// The scratch memory of a thread, see isa.h.
#include <memory>
#include <new>

#include "isa.h"

namespace frs::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};  // the widest vector

struct Release {
  void operator()(void* memory) const { ::operator delete(memory, kAlignment); }
};

}  // namespace

void* scratch() {
  static thread_local const std::unique_ptr<void, Release> memory(::operator new(kScratchBytes, kAlignment));
  return memory.get();
}

}  // namespace frs::cpu
