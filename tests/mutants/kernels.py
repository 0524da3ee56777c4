"""Faults in the public functions, the reference, the autograd function and the CPU kernels."""

from .mutant import Mutant

LOSS, BACKWARD = "tests/test_loss.py", "tests/test_loss_backward.py"
HEAD, IMITATION = "tests/test_head.py", "tests/test_imitation.py"
OPERATOR = "tests/test_loss_operator.py"

MUTANTS = (
    # The public functions and what chooses a backend.
    Mutant(
        "copies-of-the-package-share-a-namespace",
        "frs_kernels/library.py",
        'NATIVE = __name__.rpartition(".")[0].replace(".", "_")',
        'NATIVE = "frs_kernels"',
        ("tests/test_hub.py",),
    ),
    Mutant(
        "a-wheel-is-for-one-python",
        "setup.py",
        'return "py3", "none", f"linux_',
        'return "cp312", "cp312", f"linux_',
        ("tests/test_packaging.py::test_a_wheel_is_for_every_python",),
    ),
    Mutant(
        "quality-focal-loss-is-linear-by-default",
        "frs_train/detectors/gfl_loss.py",
        "quality: Tensor, beta: float = 2.0",
        "quality: Tensor, beta: float = 1.0",
        ("tests/train/detectors/test_gfl.py::test_quality_focal_loss_is_quadratic_by_default",),
    ),
    Mutant(
        "a-mask-of-zeros-is-divided-by-0",
        "frs_kernels/ops.py",
        "torch.where(z == 0, 0.0, factor / z * values)",
        "factor / z * values",
        (f"{IMITATION}::test_a_mask_whose_normalizer_is_0_adds_nothing_to_others",),
    ),
    Mutant(
        "eager-is-preferred-to-the-kernels",
        "frs_kernels/dispatch.py",
        '"cpu": ("native", "triton", "eager")',
        '"cpu": ("eager", "triton", "native")',
        ("tests/test_dispatch.py::test_auto_takes_the_best_that_runs",),
    ),
    Mutant(
        "triton-is-preferred-on-a-gpu",
        "frs_kernels/dispatch.py",
        '"cuda": ("native", "triton", "eager")',
        '"cuda": ("triton", "native", "eager")',
        ("tests/test_dispatch.py::test_native_comes_before_triton_and_triton_before_eager",),
    ),
    Mutant(
        "the-code-of-one-architecture-runs-on-a-whole-family",
        "frs_kernels/backends/native.py",
        "        return version == capability\n",
        "        return version[0] == capability[0]\n",
        ("tests/test_dispatch.py::test_a_build_covers_the_gpus_that_can_run_its_code",),
    ),
    Mutant(
        "triton-launches-without-a-compiler",
        "frs_kernels/backends/triton/toolchain.py",
        "    reason = _no_compiler() or _no_cache()\n",
        "    reason = _no_cache()\n",
        ("tests/test_gpus.py::test_a_compiler_is_needed",),
    ),
    Mutant(
        "the-kernels-drop-a-tangent",
        "frs_kernels/dispatch.py",
        "        if any(dual.tangent is not None for dual in duals):\n",
        "        if False:\n",
        ("tests/test_transforms.py",),
    ),
    Mutant(
        "transforms-are-not-noticed",
        "frs_kernels/dispatch.py",
        "    if transforms_are_active(inputs):\n        return transforms.unsupported(inputs)\n",
        "",
        ("tests/test_transforms.py",),
    ),
    Mutant(
        "padded-rows-are-contiguous",
        "frs_kernels/layouts.py",
        "        if outer != size * inner:",
        "        if outer < size * inner:",
        ("tests/test_levels.py", f"{LOSS}::test_padded_rows"),
    ),
    Mutant(
        "masks-of-another-dtype-are-passed-on",
        "frs_kernels/inputs.py",
        "    if tensor.dtype == dtype and tensor.is_contiguous()",
        "    if tensor.is_contiguous()",
        ("tests/test_inputs.py",),
    ),
    Mutant(
        "both-terms-have-the-scale-of-the-head",
        "frs_kernels/autograd.py",
        "        *_number_and_tensor(inputs.feat_scale, inputs),\n",
        "        *_number_and_tensor(inputs.head_scale, inputs),\n",
        ("tests/test_inputs.py",),
    ),
    Mutant(
        "operators-need-no-grad-around-them",
        "frs_kernels/library.py",
        '        library.impl(name, torch.library.fallthrough_kernel, "Autograd")\n',
        "        pass\n",
        ("tests/test_registration.py::test_operators_record_nothing",),
    ),
    # The reference and the backward.
    Mutant(
        "eager-has-a-gradient-where-z-is-0",
        "frs_kernels/reference.py",
        "student.masked_fill(z == 0, 0.0), teacher, z",
        "student, teacher, z",
        (f"{IMITATION}::test_a_normalizer_of_0_hides_what_the_tensors_hold",),
    ),
    Mutant(
        "eager-has-no-entropy-at-minus-infinity",
        "frs_kernels/reference.py",
        "return size * (-sign * t).sigmoid() - F.logsigmoid(size)",
        'return F.binary_cross_entropy_with_logits(s, t.sigmoid(), reduction="none")',
        (f"{HEAD}::test_infinite_logits_in_numbers",),
    ),
    Mutant(
        "eager-has-half-a-gradient-at-0",
        "frs_kernels/reference.py",
        "sign = torch.where(s.detach() < 0, -1.0, 1.0)",
        "sign = s.detach().sign()",
        (f"{HEAD}::test_infinite_logits_in_numbers",),
    ),
    Mutant(
        "copies-lack-the-pending-factor",
        "frs_kernels/autograd.py",
        "return operators.scaled.default(grads, grad_output, pending)\n    operators.scale_",
        "return operators.scaled.default(grads, grad_output, torch.ones_like(pending))\n    operators.scale_",
        (f"{BACKWARD}::test_second_backward_with_a_retained_graph",),
    ),
    Mutant(
        "a-retained-graph-loses-its-gradients",
        "frs_kernels/autograd.py",
        "    if graph_is_retained():\n",
        "    if False:\n",
        (f"{BACKWARD}::test_second_backward_with_a_retained_graph",),
    ),
    # The CPU kernels.
    Mutant(
        "single-pass-with-infinity-where-z-is-0",
        "csrc/cpu/loss_plan.h",
        "return normalizer_is_zero ? 0.0 : value * sum;",
        "return value * sum;",
        (
            f"{LOSS}::test_a_level_whose_normalizer_is_0_contributes_nothing",
            f"{LOSS}::test_a_level_whose_mask_is_zero_contributes_nothing",
        ),
    ),
    Mutant(
        "levels-whose-z-is-0-are-counted",
        "csrc/cpu/loss.cpp",
        "    if (!term.factor.normalizer_is_zero)\n",
        "    if (true)\n",
        (
            f"{LOSS}::test_a_level_whose_normalizer_is_0_contributes_nothing",
            f"{LOSS}::test_a_level_whose_mask_is_zero_contributes_nothing",
        ),
    ),
    Mutant(
        "an-image-has-the-sums-of-the-one-before",
        "csrc/cpu/loss_plan.h",
        "return {first + image * count, first + (image + 1) * count};",
        "image -= image > 0; return {first + image * count, first + (image + 1) * count};",
        (f"{OPERATOR}::test_levels_and_images", f"{OPERATOR}::test_the_images_add_up"),
    ),
    Mutant(
        "an-absent-term-is-nan-where-the-mask-is",
        "csrc/cpu/loss_plan.h",
        "return term->student.present() ? factor.times(sum) : 0.0;",
        "return factor.times(sum);",
        (f"{OPERATOR}::test_a_term_that_is_absent_is_0",),
    ),
    Mutant(
        "every-image-is-scaled-by-the-first-one",
        "csrc/cpu/scale.cpp",
        "static_cast<const S*>(grad_output)[image]",
        "static_cast<const S*>(grad_output)[0 * image]",
        ("tests/test_registration.py::test_scale_multiplies_each_image_by_its_own_factor",),
    ),
    Mutant(
        "channel-weights-begin-at-the-first-image",
        "csrc/cpu/blocks.h",
        "tile.image * term.channels + tile.channel",
        "tile.channel",
        (f"{IMITATION}::test_channel_weights",),
    ),
    Mutant(
        "the-maximum-drops-nan",
        "csrc/cpu/isa/maximum.h",
        "return x == x ? larger(x, maximum) : x;",
        "return larger(x, maximum);",
        ("tests/test_mask.py::test_propagates_nan_and_infinity",),
    ),
    Mutant(
        "a-product-of-too-many-channels",
        "csrc/cpu/blocks.h",
        "return {kMaxLogFactors, kSegment",
        "return {8 * kMaxLogFactors, kSegment",
        ("tests/test_head.py::test_more_channels_than_one_product_holds",),
    ),
    Mutant(
        "kernel-state-is-on-the-stack",
        "csrc/cpu/isa/head.cpp",
        "  auto& state = scratch_as<State<Accumulator, V, S, N, kLanes>>();",
        "  State<Accumulator, V, S, N, kLanes> state;",
        ("tests/test_native_cpu.py::test_a_thread_with_a_small_stack",),
    ),
    Mutant(
        "a-negative-exponent-is-shifted",
        "csrc/include/frs/math.h",
        "return static_cast<int32_t>(static_cast<uint32_t>(n) << 23);",
        "return n << 23;",
        ("tests/test_host_math.py::test_no_undefined_behaviour",),
    ),
)
