"""Faults in the CUDA kernels, which the tests run on the CPU."""

from .mutant import Mutant

EMULATED = "tests/test_cuda_emulated.py"

MUTANTS = (
    Mutant(
        "images-begin-with-a-block",
        "csrc/cuda/loss.cu",
        "first[e] * kWarps + image * count",
        "first[e] * kWarps + image * kWarps",
        (f"{EMULATED}::test_blocks_that_span_images",),
    ),
    Mutant(
        "a-level-takes-partial-sums-of-the-next",
        "csrc/cuda/losses.cuh",
        "i + j * kWarp < to ?",
        "i + j * kWarp < first[entries] ?",
        (f"{EMULATED}::test_blocks_that_span_images",),
    ),
    Mutant(
        "every-level-has-a-normalizer-of-its-own-on-a-gpu",
        "csrc/cuda/plan.cu",
        "const bool all = spans_levels(table.normalizer);",
        "const bool all = false;",
        (f"{EMULATED}::test_blocks_that_span_images",),
    ),
    Mutant(
        "images-lack-the-pending-factor",
        "csrc/cuda/loss.cu",
        "return __ldcg(pending + e) * sum;",
        "return sum;",
        (f"{EMULATED}::test_blocks_that_span_images",),
    ),
    Mutant(
        "all-images-are-scaled-alike",
        "csrc/cuda/scale.cu",
        "static_cast<const Acc*>(table.grad_output)[image]",
        "static_cast<const Acc*>(table.grad_output)[0]",
        (f"{EMULATED}::test_a_factor_per_image_at_any_alignment",),
    ),
    Mutant(
        "half-of-the-logits-are-forgotten",
        "csrc/cuda/largest.cuh",
        "return nan_max(Half::low(pair), Half::high(pair));",
        "return Half::low(pair);",
        (EMULATED,),
    ),
    Mutant(
        "the-ring-wraps-too-early",
        "csrc/cuda/ring.cuh",
        "(position + stages * kStageBytes) % kBytes",
        "(position + stages * kStageBytes) % (kBytes / 2)",
        (EMULATED,),
    ),
)
