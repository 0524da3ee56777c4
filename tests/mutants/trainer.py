"""Faults in the trainer, in the loss module and in the integrations."""

from .mutant import Mutant

STEP = ("tests/train/training/test_step.py",)
TRAINER = ("tests/train/training/test_trainer.py",)
DISTILLATION = ("tests/train/training/test_distillation.py",)
TEACHER = ("tests/train/training/test_teacher.py",)
MODULES = ("tests/test_modules.py",)

MUTANTS = (
    # The step.
    Mutant(
        "accumulated-gradients-not-divided",
        "frs_train/training/step.py",
        "sum(losses.values()) / len(batches)",
        "sum(losses.values())",
        STEP,
    ),
    Mutant(
        "scaled-gradients-are-clipped",
        "frs_train/training/step.py",
        "        state.scaler.unscale_(state.optimizer)\n",
        "",
        STEP,
    ),
    Mutant(
        "every-iteration-draws-the-same",
        "frs_train/training/step.py",
        "Stream.STEP, state.iteration, ",
        "Stream.STEP, 0, ",
        STEP,
    ),
    Mutant(
        "one-size-for-the-whole-run",
        "frs_train/training/step.py",
        "Stream.SIZE, state.iteration)",
        "Stream.SIZE)",
        TRAINER,
    ),
    Mutant(
        "gradients-of-all-iterations-add-up",
        "frs_train/training/step.py",
        "    state.optimizer.zero_grad(set_to_none=True)\n",
        "",
        STEP,
    ),
    Mutant(
        "moving-average-is-not-evaluated",
        "frs_train/training/state.py",
        "return self.ema.module if self.ema else self.student",
        "return self.student",
        ("tests/train/training/test_moving_average.py",),
    ),
    Mutant(
        "moving-average-restarts-on-resuming",
        "frs_train/training/state.py",
        'self.ema.n_averaged.fill_(saved["ema_steps"])',
        "self.ema.n_averaged.fill_(0)",
        TRAINER,
    ),
    Mutant(
        "optimizer-restarts-on-resuming",
        "frs_train/training/state.py",
        '        load_optimizer(self.optimizer, saved["optimizer"], name)\n',
        "",
        TRAINER,
    ),
    Mutant(
        "rate-falls-too-late",
        "frs_train/training/schedule.py",
        "iteration >= step * total",
        "iteration > step * total",
        ("tests/train/training/test_schedule.py",),
    ),
    # The run folder.
    Mutant(
        "nothing-is-kept",
        "frs_train/training/checkpoint.py",
        "first + max(keep, 1) :",
        "first + keep :",
        ("tests/train/training/test_checkpoint.py",),
    ),
    # The data.
    Mutant(
        "boxes-leave-their-image",
        "frs_train/data/coco.py",
        "np.clip(corners, 0, np.tile(sizes, 2)).astype",
        "corners.astype",
        ("tests/train/data/test_coco.py",),
    ),
    Mutant(
        "every-image-is-augmented-alike",
        "frs_train/data/order.py",
        "Stream.AUGMENTATION, position)",
        "Stream.AUGMENTATION)",
        ("tests/train/data/test_order.py",),
    ),
    # The distillation.
    Mutant(
        "teacher-resizes-by-its-own-limit",
        "frs_train/training/teacher.py",
        "    teacher.model.transform.max_size = student.model.transform.max_size",
        "",
        DISTILLATION,
    ),
    Mutant(
        "teacher-in-training-mode",
        "frs_train/training/teacher.py",
        "teacher.eval().requires_grad_(False)",
        "teacher.train().requires_grad_(False)",
        DISTILLATION,
    ),
    Mutant(
        "batch-norm-applied-twice",
        "frs_train/training/teacher.py",
        "            setattr(module, second, nn.Identity())\n",
        "",
        TEACHER,
    ),
    Mutant(
        "batch-norm-folded-into-the-convolution-after-it",
        "frs_train/training/teacher.py",
        "list(module.named_children())",
        "list(module.named_children())[::-1]",
        TEACHER,
    ),
    Mutant(
        "each-level-is-divided-by-its-own-sum-over-processes",
        "frs_train/training/masks.py",
        'list((sums.sum().expand_as(sums) if normalizer == "mask_all_levels" else sums).unbind())',
        "list(sums.unbind())",
        DISTILLATION,
    ),
    Mutant(
        "box-masks-in-the-pixels-of-the-file",
        "frs_train/training/masks.py",
        "[width / image.shape[-1], height / image.shape[-2]] * 2",
        "[1.0, 1.0] * 2",
        DISTILLATION,
    ),
    Mutant(
        "warm-up-stays-at-its-first-step",
        "frs_train/training/state.py",
        "        self.learner.set_step(iteration)\n",
        "        self.learner.set_step(0)\n",
        ("tests/train/training/test_accumulate.py",),
    ),
    Mutant(
        "warm-up-restarts-on-resuming",
        "frs_train/training/state.py",
        'self.reach(saved["iteration"])',
        'self.iteration = saved["iteration"]',
        ("tests/train/training/test_accumulate.py",),
    ),
    Mutant(
        "shares-of-levels-are-those-of-the-last-part",
        "frs_train/training/step.py",
        "mean.get(name, 0) + loss.detach() / len(batches)",
        "mean.get(name, 0) * (loss.dim() == 0) + loss.detach() / (1 if loss.dim() else len(batches))",
        ("tests/train/training/test_trainer.py::test_metrics_have_the_share_of_every_level",),
    ),
    # The loss module.
    Mutant(
        "warm-up-counts-forwards",
        "frs_kernels/modules.py",
        "        warmup = self._warmup_factor()\n",
        "        warmup = self._warmup_factor()\n        self.iteration += 1\n",
        MODULES,
    ),
    Mutant("warm-up-does-not-end", "frs_kernels/modules.py", ".clamp(max=1.0)", "", MODULES),
    Mutant(
        "warm-up-without-a-count-stays-at-0",
        "frs_kernels/modules.py",
        "if self.training and not self._is_told_the_steps:",
        "if False:",
        MODULES,
    ),
    Mutant(
        "help-waits-for-torch",
        "frs_train/cli/main.py",
        "import tyro",
        "import torch, tyro",
        ("tests/train/cli/test_commands.py::test_help_and_errors_of_options_import_nothing_heavy",),
    ),
    # The integrations.
    Mutant(
        "distilled-teacher-is-trained",
        "frs_kernels/integrations/hooks.py",
        "teacher.eval().requires_grad_(False)",
        "teacher",
        ("tests/integrations/test_hooks.py::test_the_teacher_stays_frozen_and_out_of_checkpoints",),
    ),
    Mutant(
        "capture-keeps-the-last-forward",
        "frs_kernels/integrations/hooks.py",
        "[root.register_forward_pre_hook(_Hook(self.clear))]",
        "[]",
        (
            "tests/integrations/test_hooks.py::test_a_new_forward_of_the_model_discards_the_tensors_of_the_last",
        ),
    ),
    Mutant(
        "mmrazor-counts-iterations",
        "frs_kernels/integrations/mmrazor.py",
        "runner.iter // self.accumulate",
        "runner.iter",
        ("tests/integrations/test_mmrazor.py::test_warm_up_counts_optimizer_steps_under_accumulation",),
    ),
    Mutant(
        "torchdistill-counts-calls",
        "frs_kernels/integrations/torchdistill.py",
        "self.calls // self.accumulate",
        "self.calls",
        ("tests/integrations/test_torchdistill.py::test_warm_up_counts_optimizer_steps_under_accumulation",),
    ),
)
