// A pool of memory blocks.
//
// It is bounded: a freed block is kept only while all kept blocks together are no larger than the gradients
// of the latest call. If no block has the size that a call needs, all kept blocks are unmapped first, so that
// steps of different shapes do not add up. It is safe to fork: no thread waits for the lock. A thread that
// does not get it maps and unmaps memory directly.
#include "bind/cpu/gradient_memory.h"

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "bind/cpu/sanitizers.h"

// Part of the stable ABI since torch 2.11. The weak symbol is null in torch 2.10.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t ndim, const int64_t* sizes, const int64_t* strides, int64_t storage_offset,
    int32_t dtype, int32_t device_type, int32_t device_index, AtenTensorHandle* ret, int32_t layout,
    const uint8_t* opaque_metadata, int64_t opaque_metadata_size, void (*deleter)(void* data, void* context),
    void* deleter_context);

namespace frs::bind {
namespace {

// From this size on, free() of the GNU C library may return to the system whatever others have freed.
constexpr size_t kPooledBytes = size_t{1} << 16;
constexpr size_t kPage = size_t{1} << 12, kHugePage = size_t{1} << 21;

size_t round_up(size_t bytes, size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

void advise_huge(void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const size_t begin = round_up(reinterpret_cast<uintptr_t>(data), kHugePage);
  const size_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// `bytes` of fresh memory, aligned to a huge page; nullptr if the system is out of memory.
void* map(size_t bytes) {
  const size_t reserved = bytes + kHugePage;
  void* const start = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return nullptr;
  char* const first = static_cast<char*>(start);
  char* const data = reinterpret_cast<char*>(round_up(reinterpret_cast<uintptr_t>(start), kHugePage));
  if (data > first) munmap(first, data - first);
  munmap(data + bytes, first + reserved - (data + bytes));
  advise_huge(data, bytes);
  return data;
}

void unmap(void* data, size_t bytes) {
  sanitizers::limit_use(data, bytes, bytes);
  munmap(data, bytes);
}

class Pool {
 public:
  void begin() {
    if (!lock()) return;
    while (kept_ > limit_) unmap_first();
    limit_ = 0;
    unlock();
  }

  void* take(size_t bytes) {
    if (!lock()) return map(bytes);
    limit_ += bytes;
    void* data = nullptr;
    for (size_t i = 0; i < count_ && data == nullptr; ++i) {
      if (blocks_[i].bytes != bytes) continue;
      data = blocks_[i].data;
      remove(i);
    }
    if (data == nullptr)
      while (count_ > 0) unmap_first();
    unlock();
    return data != nullptr ? data : map(bytes);
  }

  void give(void* data, size_t bytes) {
    if (!lock()) {
      unmap(data, bytes);
      return;
    }
    if (bytes <= limit_) {
      sanitizers::limit_use(data, 0, bytes);
      while (count_ > 0 && (kept_ + bytes > limit_ || count_ == blocks_.size())) unmap_first();
      blocks_[count_++] = {data, bytes};
      kept_ += bytes;
    } else {
      unmap(data, bytes);
    }
    unlock();
  }

  void release() {
    if (!lock()) return;
    while (count_ > 0) unmap_first();
    unlock();
  }

 private:
  struct Block {
    void* data;
    size_t bytes;
  };

  bool lock() { return !busy_.test_and_set(std::memory_order_acquire); }
  void unlock() { busy_.clear(std::memory_order_release); }
  void remove(size_t i) {
    kept_ -= blocks_[i].bytes;
    for (--count_; i < count_; ++i) blocks_[i] = blocks_[i + 1];
  }
  void unmap_first() {
    unmap(blocks_[0].data, blocks_[0].bytes);
    remove(0);
  }

  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  std::array<Block, 2 * kMaxLevels> blocks_;  // the oldest one first
  size_t count_ = 0, kept_ = 0, limit_ = 0;
};

Pool pool;  // trivially destructible, because tensors may be freed after static destructors have run

}  // namespace

void begin_gradients() { pool.begin(); }

Tensor empty_gradient(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                      const Tensor& like) {
  const size_t usable = like.numel() * like.element_size(), bytes = round_up(usable, kPage);
  const bool large = bytes >= kPooledBytes;
  void* const data = large && torch_from_blob != nullptr ? pool.take(bytes) : nullptr;
  if (data == nullptr) {
    Tensor tensor = empty_strided(sizes, strides, like);
    if (large) advise_huge(tensor.mutable_data_ptr(), bytes);
    return tensor;
  }
  sanitizers::limit_use(data, usable, bytes);
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(torch_from_blob(
      data, static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), 0, dtype,
      aoti_torch_device_type_cpu(), like.get_device_index(), &handle, aoti_torch_layout_strided(), nullptr, 0,
      [](void* block, void* size) { pool.give(block, reinterpret_cast<uintptr_t>(size)); },
      reinterpret_cast<void*>(bytes)));
  return Tensor(handle);
}

}  // namespace frs::bind

// Unmaps all kept blocks, for measurements of memory: ctypes.CDLL(path).frs_release_gradient_memory().
extern "C" __attribute__((visibility("default"))) void frs_release_gradient_memory() {
  frs::bind::pool.release();
}
