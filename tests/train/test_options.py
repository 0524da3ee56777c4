"""The declarations of the options: each has a help text and, if it is a number, a range that is enforced."""

import ast
import inspect
import math
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_origin, get_type_hints

import pytest
from option_sets import NUMBERS, SETS, called, set_inside, shown_by
from pydantic import TypeAdapter

from frs_train.cli.commands import COMMANDS
from frs_train.cli.main import main, parse
from frs_train.cli.training import DistilledRunConfig
from frs_train.config import DetectorConfig, DistillConfig, RunConfig, TrainConfig
from frs_train.errors import UserError
from frs_train.options import Range


def test_options_of_all_commands_are_listed():
    assert {
        "TrainConfig.lr",
        "DistillConfig.feat_weight",
        "EvalConfig.batch_size",
        "DetectorConfig.min_size",
    } <= {called(kind, name) for kind, name, _ in NUMBERS}


@pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.__name__)
def test_every_number_has_a_range(kind):
    without = [
        name
        for owner, name, hint in NUMBERS
        if owner is kind and not any(isinstance(m, Range) for m in getattr(hint, "__metadata__", ()))
    ]
    assert without == [], "make their types with whole, real or several of frs_train.options"


@pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.__name__)
def test_every_option_has_a_help_text(kind):
    hints = get_type_hints(kind)
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    options = [
        (statement.target.id, below)
        for statement, below in zip(body, [*body[1:], None], strict=True)
        if isinstance(statement, ast.AnnAssign)
        and hints[statement.target.id] is not type(None)
        and not set_inside(hints[statement.target.id])
    ]
    assert [
        n for n, b in options if not (isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant))
    ] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_ranges(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    inside = shown_by(command)
    ranges = [
        next(m for m in hint.__metadata__ if isinstance(m, Range)) for k, _, hint in NUMBERS if k in inside
    ]
    assert [r for r in ranges if f"({r}; default: " not in text] == []


def test_copy_with_an_invalid_value_is_refused():
    with pytest.raises(UserError, match="--lr is nan"):
        replace(TrainConfig(), lr=math.nan)


def test_values_get_the_type_of_their_option():
    config = RunConfig("runs/x", detector=DetectorConfig(min_size=[64, 96]), train=TrainConfig(epochs=3))
    assert config.out == Path("runs/x") and config.detector.min_size == (64, 96)
    assert isinstance(config.train.epochs, float)


def test_command_line_and_constructor_create_equal_configurations():
    _, line = parse("distill --out x --lr 0.5 --min-size 64 96 --feat-weight 2".split())
    assert line == DistilledRunConfig(
        out=Path("x"),
        detector=DetectorConfig(min_size=(64, 96)),
        train=TrainConfig(lr=0.5),
        distill=DistillConfig(feat_weight=2),
    )


def test_long_value_is_cut_in_the_message():
    with pytest.raises(UserError) as refused:
        TrainConfig(batch_size="9" * 1000)
    assert len(str(refused.value)) < 150


def test_ranges_are_what_pydantic_checks():
    """The ranges that `whole`, `real` and `several` describe are those that they check."""
    from frs_train.options import real, several, whole

    def allows(kind, value):
        try:
            TypeAdapter(kind).validate_python(value)
        except ValueError:
            return False
        return True

    closed, left, right = real(0, 1), real(0, 1, above=True), real(0, 1, below=True)
    assert [str(next(m for m in k.__metadata__ if isinstance(m, Range))) for k in (closed, left, right)] == [
        "0 to 1",
        "above 0 to 1",
        "0 to below 1",
    ]
    assert [allows(closed, v) for v in (-0.1, 0, 1, 1.1, math.nan)] == [False, True, True, False, False]
    assert [allows(left, v) for v in (0, 1e-300, 1)] == [False, True, True]
    assert [allows(right, v) for v in (0, 1, math.nan)] == [True, False, False]
    assert [allows(whole(1, 3), v) for v in (0, 1, 3, 4, 1.5)] == [False, True, True, False, False]
    assert [allows(several(whole(1, 3), 1), v) for v in ((), (1,), (1, 4))] == [False, True, False]
    assert get_origin(closed) is Annotated
