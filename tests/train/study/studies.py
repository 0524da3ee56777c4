"""Study files with tiny detectors, whose runs take a second."""

from pathlib import Path

TINY = """
seeds = [1, 2]
baselines = ["none", "whole-map"]

[teacher]
detector = { family = "fcos", backbone = "resnet10", backbone_width = 0.125, fpn_width = 16, head_convs = 0, min_size = [64] }
train = { iterations = 2, batch_size = 2, checkpoint_every = 0, log_every = 1, device = "cpu" }

[student]
detector = { family = "fcos", backbone = "resnet10", backbone_width = 0.125, fpn_width = 16, head_convs = 0, min_size = [64] }
train = { iterations = 2, batch_size = 2, checkpoint_every = 0, log_every = 1, device = "cpu" }

[data.digits]
digits = { train = 4, val = 2, size = 64 }
tuning.digits = { train = 4, val = 2, size = 64, seed = 7 }

[arms.none]
distill = { method = "none" }

[arms.whole-map]
distill = { method = "whole-map" }
candidates = [{ feat_weight = 0.001 }, { feat_weight = 0.01 }]

[arms.frs]
distill = { method = "frs", head_weight = 0.1 }
candidates = [{ feat_weight = 0.001 }, { feat_weight = 0.01 }]
"""  # noqa: E501


def write(folder: Path, *changes: tuple[str, str]) -> Path:
    """The tiny study with some of its text replaced, as a file."""
    text = TINY
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "study.toml"
    path.write_text(text)
    return path
