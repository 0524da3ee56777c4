"""Saved configurations: read by later versions, and refused with a clear message if they are wrong."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import run_config

from frs_train.cli.main import main, parse
from frs_train.config import DistillConfig, RunConfig
from frs_train.demo import TEACHER
from frs_train.errors import UserError
from frs_train.options import from_dict, to_dict
from frs_train.recipes import RECIPES
from frs_train.training.checkpoint import checkpoints


def test_saved_option_out_of_range_is_named_as_on_the_command_line(digits, tmp_path):
    saved = to_dict(run_config(digits, tmp_path))
    saved["train"]["batch_size"] = 0
    with pytest.raises(UserError, match=r"^--batch-size is 0\. Its range is 1 to 1000000\.$"):
        from_dict(RunConfig, saved)
    saved["train"]["batch_size"] = "many"
    with pytest.raises(UserError, match="--batch-size is 'many'"):
        from_dict(RunConfig, saved)
    saved["train"]["batch_size"], saved["detector"]["family"] = 4, "yolo"
    with pytest.raises(UserError, match="--detector is 'yolo'.*'retinanet'"):
        from_dict(RunConfig, saved)
    saved["detector"] = {"min_size": [900], "max_size": 800}
    with pytest.raises(UserError, match="--max-size is 800, less than --min-size 900"):
        from_dict(RunConfig, saved)
    saved["detector"] = None
    with pytest.raises(UserError, match="--detector is None"):
        from_dict(RunConfig, saved)


def test_saved_configuration_of_another_version(digits, tmp_path):
    saved = to_dict(run_config(digits, tmp_path, distill=DistillConfig(teacher="t")))
    del saved["train"]["keep"], saved["distill"]["normalizer"], saved["resume"]
    loaded = from_dict(RunConfig, saved)
    assert (loaded.train.keep, loaded.distill.normalizer, loaded.resume) == (2, "mask", False)
    saved["distill"]["novelty"] = 1
    with pytest.raises(UserError, match="no option 'novelty'"):
        from_dict(RunConfig, saved)
    with pytest.raises(UserError, match="--out is missing"):
        from_dict(RunConfig, {})


@pytest.mark.parametrize("command", ["distill", "eval"])
def test_checkpoint_with_an_unknown_value_is_named(digits, teacher, tmp_path, capsys, command):
    """A value that this version does not have: the message names file, option, value, and allowed values."""
    source = checkpoints(teacher)[0]
    content = torch.load(source, weights_only=True)
    content["config"]["distill"] = to_dict(DistillConfig(teacher="t")) | {"normalizer": "weight"}
    torch.save(content, tmp_path / source.name)
    files = f"--val-annotations {digits}/val.json --val-images {digits}/images --workers 0 --device cpu"
    line = {
        "distill": f"--train-annotations {digits}/train.json --train-images {digits}/images {files} "
        f"--out {tmp_path} --resume",
        "eval": f"{tmp_path} {files.replace('--val-', '--')}",
    }
    assert main([command, *line[command].split()]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"frs-train: The configuration in {tmp_path / source.name} does not fit this version: "
        "--normalizer is 'weight'. It must be 'mask', 'mask_channels', 'batch', 'numel' or 'mask_all_levels'."
    )


def test_configuration_of_the_shipped_teacher_is_readable():
    saved = torch.load(TEACHER, weights_only=True)["config"]
    assert from_dict(RunConfig, saved).detector.family == "fcos"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name):
    for command in ("train", "distill"):
        _, config = parse([command, "--out", "x", "--recipe", name])
        assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_saved_configuration_raises_only_refusals(data):
    saved = to_dict(RunConfig("run", distill=DistillConfig()))
    at = data.draw(st.sampled_from([saved, *(part for part in saved.values() if isinstance(part, dict))]))
    at[data.draw(st.sampled_from(sorted(at)) | st.text(max_size=5))] = data.draw(JSON)
    try:
        loaded = from_dict(RunConfig, saved)
    except UserError as refused:
        assert str(refused) and "\n" not in str(refused)
    else:
        assert from_dict(RunConfig, json.loads(json.dumps(to_dict(loaded)))) == loaded


@pytest.mark.parametrize(
    "saved", [None, [], "x", {1: 2}, {"out": "x", "\n": 1}, {"out": "x", "train": {"x" * 999: 1}}]
)
def test_content_that_is_not_a_configuration_is_refused(saved):
    with pytest.raises(UserError) as refused:
        from_dict(RunConfig, saved)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200
