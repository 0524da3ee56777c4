"""Faults in the Triton kernels and in what the host plans for them."""

from .mutant import Mutant

FOLDER = "frs_kernels/backends/triton"

MUTANTS = (
    Mutant(
        "the-head-term-has-the-sums-of-the-imitation-term",
        f"{FOLDER}/plan.py",
        "feats[-1] + bound for bound",
        "bound for bound",
        ("tests/test_triton.py::test_tile_bounds_of_both_terms_follow_each_other",),
    ),
    Mutant(
        "a-level-is-added-before-its-last-tile",
        f"{FOLDER}/reduce.py",
        "if done_before + 1 == last - first:",
        "if done_before + 2 == last - first:",
        ("tests/test_triton.py::test_levels_of_several_tiles_add_up_whatever_finishes_last",),
        interpreted=True,
    ),
    Mutant(
        "every-level-has-a-normalizer-of-its-own-in-triton",
        f"{FOLDER}/reduce.py",
        "    if NORMALIZER == _MASK_ALL_LEVELS:\n",
        "    if False:\n",
        ("tests/test_imitation.py::test_normalizers",),
        interpreted=True,
    ),
    Mutant(
        "an-image-has-the-tiles-of-the-one-before",
        f"{FOLDER}/reduce.py",
        "first += image * share",
        "first += (image - 1) * share",
        ("tests/test_loss_operator.py::test_an_image_alone_has_the_loss_it_has_among_others",),
        interpreted=True,
    ),
    Mutant(
        "every-image-is-scaled-by-the-first-factor",
        f"{FOLDER}/scale.py",
        "        grad_output += image\n",
        "",
        ("tests/test_triton.py::test_scale_takes_images_of_any_size",),
        interpreted=True,
    ),
    Mutant(
        "bins-that-neither-has-make-the-divergence-nan-in-triton",
        f"{FOLDER}/kl.py",
        "dot += tl.where(e_t == 0.0, 0.0, e_t * (difference_t - difference_s))",
        "dot += e_t * (difference_t - difference_s)",
        ("tests/test_kl.py::test_logits_of_minus_infinity",),
        interpreted=True,
    ),
    Mutant(
        "sums-keep-the-first-maximum-in-triton",
        f"{FOLDER}/kl.py",
        "        max_s, max_t = new_s, new_t\n",
        "",
        ("tests/test_kl_triton.py::test_several_tiles_blocks_and_segments",),
        interpreted=True,
    ),
    Mutant(
        "groups-of-a-location-have-weights-of-their-own-in-triton",
        f"{FOLDER}/kl_tiles.py",
        "position // kl_entry(table, ROWS_PER_WEIGHT, level, config).to(config.INDEX)",
        "position",
        ("tests/test_kl.py::test_loss_and_gradient",),
        interpreted=True,
    ),
)
