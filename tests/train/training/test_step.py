"""One optimizer step, with results that can be computed by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from frs_train.config import RunConfig, TrainConfig
from frs_train.training.learner import Learner
from frs_train.training.state import TrainingState
from frs_train.training.step import current_losses, optimizer_step


class Line(Learner):
    """One weight w that starts at 0; the loss of an image is w times its mean. A forward draws a number."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)))
        self.w = self.student[0].weight
        nn.init.zeros_(self.w)
        self.draws = []

    def forward(self, images, targets, size):
        self.draws.append(float(torch.rand(())))
        means = torch.stack([image.mean() for image in images])
        self.student[1](means[:, None])
        return {"loss": (self.w * means).mean()}


def image(value):
    return torch.full((3, 1, 1), value, dtype=torch.uint8), {}


def state_of(**train):
    options = {"optimizer": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "lr_warmup": 0}
    config = RunConfig(Path("unused"), train=TrainConfig(**{**options, **train}))
    return TrainingState(config, Line(), torch.device("cpu"), total=100)


def test_accumulated_gradients_are_a_mean():
    state = state_of(accumulate=2)
    optimizer_step(state, state.learner, [[image(255), image(255)], [image(51), image(51)]])
    assert state.learner.w.item() == pytest.approx(-(1.0 + 0.2) / 2)


def test_each_iteration_has_the_gradient_of_its_own_batch():
    state = state_of()
    for value in (255, 51):
        optimizer_step(state, state.learner, [[image(value), image(value)]])
    assert state.learner.w.item() == pytest.approx(-(1.0 + 0.2))


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
def test_the_gradient_that_is_clipped_is_not_scaled(amp):
    """The gradient is 1, clipped to 1/4. If it were clipped while scaled by 65,536, it would be almost 0."""
    state = state_of(clip=0.25, amp=amp)
    optimizer_step(state, state.learner, [[image(255), image(255)]])
    assert state.learner.w.item() == pytest.approx(-0.25, rel=1e-4)


def test_draws_differ_by_iteration_and_repeat_after_resuming():
    one, other = state_of(), state_of()
    part = [image(9), image(8)]
    for _ in range(3):
        optimizer_step(one, one.learner, [part])
    other.iteration = 2
    optimizer_step(other, other.learner, [part])
    assert len(set(one.learner.draws)) == 3 and other.learner.draws == one.learner.draws[2:]


def test_current_losses_has_no_side_effects():
    state = state_of()
    optimizer_step(state, state.learner, [[image(255), image(0)]])
    before = {key: value.clone() for key, value in state.learner.state_dict().items()}
    losses = current_losses(state, [image(255), image(51)])
    assert float(losses["loss"]) == pytest.approx(-0.5 * 0.6) and not losses["loss"].requires_grad
    assert state.iteration == 1
    for key, value in state.learner.state_dict().items():
        assert torch.equal(value, before[key]), key
