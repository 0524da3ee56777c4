"""MMRazor's losses, connector and hook, built by MMEngine's registries and run by its Runner.

MMRazor and MMDetection need a compiled mmcv and are not run: ``TinyDistiller`` does what MMRazor's
ConfigurableDistiller does with a configuration (recorders are forward hooks, losses and connectors are
built by a child of the root registry and called with keywords).
"""

import inspect

import pytest
import torch

import frs_kernels as frs

pytest.importorskip("mmengine", reason="needs mmengine (pip install mmengine)")

from mmengine.config import Config  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.registry import HOOKS, MODELS, Registry  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from tiny_detector import TinyDetector  # noqa: E402

from frs_kernels.integrations.hooks import Capture  # noqa: E402
from frs_kernels.integrations.mmrazor import FRSLoss, FRSWarmupHook  # noqa: E402

RAZOR_MODELS = Registry("model", parent=MODELS, scope="mmrazor")  # as mmrazor.registry makes its own

CONFIG = """
custom_imports = dict(imports=["frs_kernels.integrations.mmrazor"])
distiller = dict(
    distill_losses=dict(
        loss_frs=dict(type="FRSLoss", student_channels=8, teacher_channels=12, num_levels=3, warmup_iters=4),
        loss_feature=dict(type="FRSFeatureLoss", loss_weight=0.5),
        loss_head=dict(type="FRSHeadLoss", loss_weight=0.25)),
    connectors=dict(
        to_teacher=dict(type="FRSConnector", student_channels=8, teacher_channels=12, num_levels=3)),
    loss_forward_mappings=dict(
        loss_frs=dict(
            s_feature=dict(recorder="neck", from_student=True),
            t_feature=dict(recorder="neck", from_student=False),
            s_logits=dict(recorder="head", from_student=True),
            t_logits=dict(recorder="head", from_student=False)),
        loss_feature=dict(
            s_feature=dict(recorder="neck", from_student=True, connector="to_teacher"),
            t_feature=dict(recorder="neck", from_student=False),
            t_logits=dict(recorder="head", from_student=False)),
        loss_head=dict(
            s_logits=dict(recorder="head", from_student=True),
            t_logits=dict(recorder="head", from_student=False, data_idx=0))))
"""


class TinyDistiller(BaseModel):
    """A student, a teacher, and losses from a configuration, called as ConfigurableDistiller calls them."""

    def __init__(self, distill_losses, connectors, loss_forward_mappings):
        super().__init__()
        torch.manual_seed(0)
        self.student, self.teacher = TinyDetector(8), TinyDetector(12).requires_grad_(False)
        self.distill_losses = torch.nn.ModuleDict(
            {k: RAZOR_MODELS.build(v) for k, v in distill_losses.items()}
        )
        self.connectors = torch.nn.ModuleDict({k: RAZOR_MODELS.build(v) for k, v in connectors.items()})
        self.mappings = loss_forward_mappings
        self.recorded: dict = {}
        for who in ("student", "teacher"):
            for recorder, path in (("neck", "neck"), ("head", "bbox_head")):
                module = getattr(self, who).get_submodule(path)
                module.register_forward_hook(self._recorder(who, recorder))

    def _recorder(self, who, recorder):
        def record(module, inputs, output):
            self.recorded[who, recorder] = tuple(output.values()) if isinstance(output, dict) else output

        return record

    def _get(self, recorder, from_student, data_idx=None, connector=None):
        data = self.recorded["student" if from_student else "teacher", recorder]
        data = data if data_idx is None else data[data_idx]
        return self.connectors[connector](data) if connector else data

    def forward(self, inputs, mode="tensor"):
        self.teacher(inputs)
        losses = {f"student.loss_{k}": v for k, v in self.student(inputs).items()}
        for name, keywords in self.mappings.items():
            module = self.distill_losses[name]
            assert set(keywords) <= set(inspect.signature(module.forward).parameters)  # MMRazor's own check
            arguments = {keyword: self._get(**record) for keyword, record in keywords.items()}
            losses[f"distill.{name}"] = module(**arguments)
        return losses


@pytest.fixture
def distiller() -> TinyDistiller:
    config = Config.fromstring(CONFIG, file_format=".py")  # runs custom_imports
    return TinyDistiller(**config.distiller)


def runner_for(
    model, folder, *, iters: int, hooks: list, resume: bool = False, accumulate: int = 1
) -> Runner:
    random = torch.Generator().manual_seed(0)
    data = [{"inputs": torch.randn(3, 48, 64, generator=random)} for _ in range(8)]
    return Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader={
            "dataset": data, "sampler": {"type": "InfiniteSampler", "shuffle": False}, "batch_size": 2,
            "collate_fn": {"type": "default_collate"},
        },
        train_cfg={"by_epoch": False, "max_iters": iters},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 1e-3}, "accumulative_counts": accumulate},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1, "by_epoch": False}},
        custom_hooks=hooks,
        experiment_name=f"frs{iters}-{folder.name}",
        log_level="ERROR",
        resume=resume,
    )  # fmt: skip


@HOOKS.register_module()
class Recording(Hook):
    priority = "LOWEST"

    def __init__(self):
        self.factors, self.steps = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.factors.append(runner.model.distill_losses["loss_head"].warmup_factor)
        self.steps.append(int(runner.model.distill_losses["loss_frs"].iteration))


def test_the_losses_are_found_from_a_child_registry_by_name():
    losses = ("FRSLoss", "FRSFeatureLoss", "FRSHeadLoss", "FRSKLDivergence", "FRSChannelWiseDivergence")
    for name in (*losses, "FRSConnector"):
        assert RAZOR_MODELS.get(name) is MODELS.get(name)
    assert HOOKS.get("FRSWarmupHook") is FRSWarmupHook


def test_each_loss_is_the_term_of_frs_loss_that_it_is_named_after(distiller, images):
    student, teacher = (
        Capture(model, feats="neck", logits="bbox_head.cls_logits")
        for model in (distiller.student, distiller.teacher)
    )
    distiller.distill_losses["loss_frs"].warmup_iters = 0
    losses = distiller(images)
    logits = {"student_logits": student["logits"], "teacher_logits": teacher["logits"]}
    whole = frs.reference.frs_loss(
        distiller.distill_losses["loss_frs"].adapter(student["feats"]),
        teacher["feats"],
        **logits,
        feat_weight=0.005,
        head_weight=0.02,
    )
    expected = frs.reference.frs_loss(
        distiller.connectors["to_teacher"](student["feats"]), teacher["feats"], **logits
    )
    torch.testing.assert_close(losses["distill.loss_frs"], whole.total)
    torch.testing.assert_close(losses["distill.loss_feature"], 0.5 * expected.feature)
    torch.testing.assert_close(losses["distill.loss_head"], 0.25 * expected.head)


def test_losses_of_single_levels_add_up_to_that_of_all(images):
    """A recorder on a shared convolution (record_idx) yields one level at a time."""
    student, teacher = TinyDetector(12), TinyDetector(12)
    seen = [Capture(model, feats="neck", logits="bbox_head.cls_logits") for model in (student, teacher)]
    student(images), teacher(images)
    build = {"type": "FRSLoss", "student_channels": 12, "teacher_channels": 12, "adapter": "identity"}
    whole = RAZOR_MODELS.build(build | {"num_levels": 3, "warmup_iters": 0})
    arguments = [seen[i][name] for name in ("feats", "logits") for i in (0, 1)]
    student_feats, teacher_feats, student_logits, teacher_logits = arguments
    one_level = RAZOR_MODELS.build(build | {"num_levels": 1, "warmup_iters": 0})
    parts = [
        one_level(s_feature=x, t_feature=y, t_logits=t, s_logits=s)
        for x, y, s, t in zip(*arguments, strict=True)
    ]
    expected = whole(student_feats, teacher_feats, teacher_logits, student_logits)
    torch.testing.assert_close(sum(parts), expected)


def test_head_loss_in_quality_focal_form(images):
    student, teacher = TinyDetector(12), TinyDetector(12)
    seen = [Capture(model, logits="bbox_head.cls_logits") for model in (student, teacher)]
    student(images), teacher(images)
    loss = RAZOR_MODELS.build({"type": "FRSHeadLoss", "beta": 1.0, "masked": False, "normalizer": "batch"})
    s, t = seen[0]["logits"], seen[1]["logits"]
    ones = [torch.ones(x.shape[0], *x.shape[2:]) for x in s]
    expected = frs.reference.weighted_bce(s, t, ones, beta=1.0, normalizer="batch")
    torch.testing.assert_close(loss(s_logits=s, t_logits=t), expected)


def test_runner_trains_adapters_warms_up_and_resumes_where_it_was(distiller, tmp_path, monkeypatch):
    # MMEngine 0.10.7 loads its own checkpoints with torch.load's old default, which torch 2.6 changed.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    record, warmup = {"type": "Recording"}, {"type": "FRSWarmupHook", "iters": 4}
    adapter = distiller.distill_losses["loss_frs"].adapter.layers[0].weight
    connector = distiller.connectors["to_teacher"].layers[0].weight
    before = adapter.detach().clone(), connector.detach().clone()
    runner = runner_for(distiller, tmp_path, iters=3, hooks=[warmup, record])
    runner.train()
    assert not torch.equal(adapter, before[0])
    assert not torch.equal(connector, before[1])
    recording = next(hook for hook in runner.hooks if isinstance(hook, Recording))
    assert recording.factors == [0.0, 0.25, 0.5]
    assert recording.steps == [0, 1, 2]

    fresh = TinyDistiller(**Config.fromstring(CONFIG, file_format=".py").distiller)
    resumed = runner_for(fresh, tmp_path, iters=6, hooks=[warmup, record], resume=True)
    resumed.train()
    recording = next(hook for hook in resumed.hooks if isinstance(hook, Recording))
    assert recording.factors == [0.75, 1.0, 1.0]
    assert recording.steps == [3, 4, 5]
    assert isinstance(fresh.distill_losses["loss_frs"], FRSLoss)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_warm_up_counts_optimizer_steps_under_accumulation(distiller, tmp_path, monkeypatch, accumulate):
    """The run is interrupted and resumed in the middle of a step, which MMEngine then completes."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    hooks = [{"type": "FRSWarmupHook", "iters": 4}, {"type": "Recording"}]
    factors, steps = [], []
    fresh = TinyDistiller(**Config.fromstring(CONFIG, file_format=".py").distiller)
    for model, iters in ((distiller, 5), (fresh, 9)):
        runner = runner_for(
            model, tmp_path, iters=iters, hooks=hooks, resume=iters > 5, accumulate=accumulate
        )
        runner.train()
        recording = next(hook for hook in runner.hooks if isinstance(hook, Recording))
        factors += recording.factors
        steps += recording.steps
    assert steps == [iteration // accumulate for iteration in range(9)]
    assert factors == [min(step / 4, 1) for step in steps]


def test_the_warm_up_multiplies_the_loss_by_the_share_of_the_steps(distiller, images):
    loss = distiller.distill_losses["loss_frs"]
    loss.set_step(3)
    share = distiller(images)["distill.loss_frs"]
    loss.set_step(4)
    torch.testing.assert_close(share, 0.75 * distiller(images)["distill.loss_frs"])


def test_a_warm_up_without_the_hook_raises_and_names_it(distiller, images):
    with pytest.raises(RuntimeError, match="warm-up of 4 steps .*FRSWarmupHook.* custom_hooks"):
        distiller(images)


@pytest.mark.parametrize("kind", ["FRSLoss", "FRSConnector", "FRSFeatureLoss", "FRSHeadLoss"])
def test_a_wrong_keyword_raises_and_names_the_type_and_its_keywords(kind):
    needed = {"student_channels": 8, "teacher_channels": 8, "num_levels": 3}
    needed = needed if kind in ("FRSLoss", "FRSConnector") else {}
    RAZOR_MODELS.build({"type": kind} | needed)
    keyword = "kind" if kind == "FRSConnector" else "normalizer"
    with pytest.raises(
        TypeError, match=f"{kind}: .*unexpected keyword.*'bakcend'; it takes .*{keyword}"
    ) as raised:
        RAZOR_MODELS.build({"type": kind, "bakcend": "eager"} | needed)
    assert "_Term" not in str(raised.value)
    assert "FRSDistillationLoss" not in str(raised.value)


def test_a_missing_keyword_raises_and_names_the_type():
    with pytest.raises(
        TypeError, match="FRSLoss: missing a required argument: 'student_channels'; it takes "
    ):
        RAZOR_MODELS.build({"type": "FRSLoss"})
