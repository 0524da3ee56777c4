"""Faults that a sanitizer has to find (tests/sanitizers.py). No result need be wrong because of them."""

from .mutant import Mutant

MEMORY, CPU = "tests/test_native_cpu_memory.py", "tests/test_native_cpu.py"
REUSE = f"{MEMORY}::test_pooled_gradients_are_right_when_their_memory_is_used_again"
THREADS = f"{CPU}::test_the_same_bits_with_any_number_of_threads[dtype0-layout0]"

MUTANTS = (
    Mutant(
        "one-element-past-the-row-is-read",
        "csrc/cpu/vec.h",
        "for (int i = 0; i < extent.count; ++i) lanes[i] = p[i];",
        "for (int i = 0; i <= extent.count; ++i) lanes[i] = p[i];",
        ("tests/test_mask.py",),
        sanitizer="address",
    ),
    Mutant(
        "a-whole-vector-is-stored-at-the-end-of-a-gradient",
        "csrc/cpu/isa/head.cpp",
        "if (row != nullptr) store_with_sign(row + i, extent,",
        "if (row != nullptr) store_with_sign(row + i, FullVector{},",
        (THREADS,),
        sanitizer="address",
    ),
    Mutant(
        "the-pool-takes-memory-back-that-is-in-use",
        "csrc/bind/cpu/gradient_memory.cpp",
        "  return Tensor(handle);",
        "  pool.give(data, bytes);\n  return Tensor(handle);",
        (REUSE,),
        sanitizer="address",
    ),
    Mutant(
        "the-last-tile-is-as-large-as-the-others",
        "csrc/cpu/tasks.h",
        "body(begin, std::min(size, total - begin));",
        "body(begin, size);",
        ("tests/test_mask.py",),
        sanitizer="address",
    ),
    Mutant(
        "a-warp-tile-ends-below-the-matrix",
        "csrc/include/frs/tiles.h",
        "row + (rows_left < tiling.tile_rows ? rows_left : tiling.tile_rows)",
        "row + (rows_left < tiling.tile_rows ? rows_left + 1 : tiling.tile_rows)",
        ("tests/test_cuda_emulated.py::test_blocks_that_span_images",),
        sanitizer="address",
    ),
    Mutant(
        "a-negative-number-is-shifted-in-a-kernel",
        "csrc/include/frs/math.h",
        "return static_cast<int32_t>(static_cast<uint32_t>(n) << 23);",
        "return n << 23;",
        ("tests/test_mask.py",),
        sanitizer="address",
    ),
    Mutant(
        "the-counter-of-tasks-is-not-atomic",
        "csrc/cpu/tasks.h",
        "    std::atomic<int64_t> next{0};\n",
        "    struct {\n"
        "      int64_t value = 0;\n"
        "      int64_t fetch_add(int64_t n, std::memory_order) { return (value += n) - n; }\n"
        "    } next;\n",
        (THREADS,),
        sanitizer="thread",
    ),
    Mutant(
        "factors-are-read-without-waiting-for-their-stores",
        "csrc/cpu/tasks.h",
        "open_.store(true, std::memory_order_release);",
        "open_.store(true, std::memory_order_relaxed);",
        (THREADS,),
        sanitizer="thread",
    ),
    Mutant(
        "the-lock-of-the-pool-orders-nothing",
        "csrc/bind/cpu/gradient_memory.cpp",
        "busy_.test_and_set(std::memory_order_acquire)",
        "busy_.test_and_set(std::memory_order_relaxed)",
        (f"{CPU}::test_threads_that_call_at_once",),
        sanitizer="thread",
    ),
)
