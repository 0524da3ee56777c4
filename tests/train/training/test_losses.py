"""The numbers that a step's losses become, and the error if one of them is not finite."""

import pytest
import torch

from frs_train.errors import UserError
from frs_train.training.losses import read_losses


def losses(*levels: float) -> dict[str, torch.Tensor]:
    return {
        "box": torch.tensor(0.5),
        "frs_head": torch.tensor(sum(levels)),
        "head_level": torch.tensor(levels),
    }


def test_each_level_has_a_name():
    expected = {"box": 0.5, "frs_head": 4.0, "head_level_0": 1.0, "head_level_1": 3.0}
    assert read_losses(losses(1.0, 3.0), "of step 1", 0) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_error_names_the_level_that_is_not_finite(value):
    with pytest.raises(UserError, match="The loss of step 9 is not finite") as raised:
        read_losses(losses(1.0, value, 2.0), "of step 9", 0)
    message = str(raised.value)
    assert "frs_head'" in message and "head_level_1" in message
    assert not any(name in message for name in ("box", "head_level_0", "head_level_2"))
