"""Recipes: the defaults that they give to the options."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from frs_train.cli.main import main, parse
from frs_train.config import DistillConfig, Method
from frs_train.recipes import RECIPES

DOCS = Path(__file__).parents[2] / "docs"


def test_recipe_sets_the_student_of_distill_and_the_teacher_of_train():
    name = "gfl-r101-r50-1x"
    _, student = parse(f"distill --out x --recipe {name}".split())
    _, teacher = parse(["train", "--out", "x", f"--recipe={name}"])
    assert student.detector.backbone == "resnet50" and teacher.detector.backbone == "resnet101"
    assert (student.distill.feat_weight, student.distill.head_weight) == (0.1, 0.05)
    assert student.train.epochs == 12 and student.recipe == name


def test_options_override_a_recipe():
    _, config = parse("distill --out x --recipe fcos-r101-r50-2x --batch-size 4 --feat-weight 7".split())
    assert config.train.batch_size == 4 and config.distill.feat_weight == 7
    assert config.train.lr_batch == 16 and config.distill.head_weight == 0.05


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_values_of_the_paper(name):
    recipe = RECIPES[name]
    weights = {
        "retinanet": (0.005, 0.02),
        "gfl": (0.1, 0.05),
        "fcos": (0.01, 0.05),
        "faster-rcnn": (0.002, 0.1),
    }
    assert (recipe.distill.feat_weight, recipe.distill.head_weight) == weights[recipe.student.family]
    assert recipe.train.epochs == {"1x": 12, "2x": 24}[name[-2:]]
    assert recipe.distill.warmup_iters == 500 and recipe.distill.adapter == "conv3x3"
    assert replace(recipe.teacher, backbone="resnet50") == recipe.student
    assert recipe.student.min_size[-1] == 800 and recipe.student.max_size == 1333


def test_every_method_is_in_a_table_of_the_documentation():
    text = (DOCS / "recipes.md").read_text()
    assert [method for method in get_args(Method) if not re.search(rf"^\| `{method}`[ ,]", text, re.M)] == []


@pytest.mark.parametrize("name", ["ld", "cwd", "kd"])
def test_documented_defaults_are_those_of_the_options(name):
    config, text = DistillConfig(), (DOCS / "recipes.md").read_text()
    weight, temperature = (getattr(config, f"{name}_{part}") for part in ("weight", "temperature"))
    assert f"| `--{name}-weight`, `--{name}-temperature` | {weight:g}, {temperature:g} |" in text


def test_unknown_recipe_is_an_error(capsys):
    assert main(["train", "--out", "x", "--recipe", "best"]) == 2
    assert "retinanet-r101-r50-2x" in capsys.readouterr().err
