"""Options: every one has help and, if it is a number, a range; and no way past the range."""

import ast
import dataclasses
import inspect
import json
import math
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from frs_train.cli.commands import COMMANDS, DistilledRunConfig
from frs_train.cli.main import main, parse
from frs_train.config import DetectorConfig, DistillConfig, RunConfig, TrainConfig
from frs_train.errors import UserError
from frs_train.options import Options, Range, from_dict, to_dict

NEEDED = {
    "train": "--out x",
    "distill": "--out x",
    "eval": "RUN --annotations a --images i",
    "visualize": "RUN --annotations a --images i --out x",
    "report": "RUN",
    "export": "RUN --out x",
    "demo": "",
    "make-digits": "x",
}


def sets_of_options() -> list[type[Options]]:
    """The dataclass of every command, and those inside them."""
    found, left = [], [command.configuration for command in COMMANDS.values()]
    while left:
        kind = left.pop()
        found.append(kind)
        left += [k for h in get_type_hints(kind).values() if (k := set_inside(h)) and k not in found + left]
    return found


def set_inside(hint):
    return next((k for k in (hint, *get_args(hint)) if inspect.isclass(k) and issubclass(k, Options)), None)


def numbers_in(hint) -> bool:
    return hint in (int, float) or any(numbers_in(part) for part in get_args(hint))


SETS = sets_of_options()
NUMBERS = [
    (kind, name, hint)
    for kind in SETS
    for name, hint in get_type_hints(kind, include_extras=True).items()
    if not set_inside(hint) and numbers_in(hint)
]


def called(kind: type, name: str) -> str:
    return f"{kind.__name__}.{name}"


def minimal(kind: type, **options) -> dict:
    """Values for the options that a set requires, and these."""
    required = [
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    return {**{name: ("x",) if name == "runs" else "x" for name in required}, **options}


def test_the_options_are_found():
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


def shown_by(command: str) -> set[type[Options]]:
    """The sets of options that a command shows."""
    kind = COMMANDS[command].configuration
    inside = {k for hint in get_type_hints(kind).values() if (k := set_inside(hint))}
    return {kind} | inside


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


VALUES = st.one_of(
    st.integers(-3, 6),
    st.integers(-(10**40), 10**40),
    st.floats(-1, 2),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e-320, 2**31, 2**63, 2**64]),
)


@pytest.mark.parametrize(("kind", "name", "hint"), NUMBERS, ids=[called(k, n) for k, n, _ in NUMBERS])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_number_is_taken_or_refused_by_name(kind, name, hint, data):
    many = get_origin(get_args(hint)[0]) is tuple
    value = data.draw(st.lists(VALUES, max_size=3)) if many else data.draw(VALUES)
    try:
        made = kind(**minimal(kind, **{name: value}))
    except UserError as error:
        assert f"--{name.replace('_', '-')}" in str(error) and "\n" not in str(error)
        with pytest.raises(UserError) as again:
            from_dict(kind, minimal(kind, **{name: value}))
        assert str(again.value) == str(error)
    else:
        taken = getattr(made, name)
        assert all(map(math.isfinite, taken if many else [taken]))
        assert taken == pytest.approx(tuple(value) if many else value)
        assert from_dict(kind, json.loads(json.dumps(to_dict(made)))) == made


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_nothing_but_a_refusal_leaves_the_command_line(data):
    """Whatever is typed for a number is taken, refused by tyro as no number, or refused as out of range."""
    command = data.draw(st.sampled_from(["train", "distill", "eval", "visualize", "demo", "make-digits"]))
    inside = shown_by(command)
    name = data.draw(st.sampled_from(sorted({name for kind, name, _ in NUMBERS if kind in inside})))
    odd = st.sampled_from(
        ["", " 3 ", "1_000", "0x10", "\u0663", "1e5", "None", "nan", "-inf", "1,5", "9" * 5000]
    )
    typed = data.draw(st.one_of(VALUES.map(str), odd))
    option = f"--{name.replace('_', '-')}"
    try:
        parse([command, *NEEDED[command].split(), option, typed])
    except UserError as refused:
        assert option in str(refused) and "\n" not in str(refused)
    except SystemExit as refused:
        assert refused.code == 2


@pytest.mark.parametrize(
    ("command", "option", "value", "allowed"),
    [
        ("train", "--batch-size", "0", "1 to"),
        ("train", "--batch-size", "-1", "1 to"),
        ("eval", "--batch-size", "0", "1 to"),
        ("eval", "--batch-size", "-1", "1 to"),
        ("train", "--accumulate", "0", "1 to"),
        ("train", "--min-size", "0", "1 to"),
        ("train", "--min-size", "", "1 or more"),
        ("train", "--max-size", "0", "1 to"),
        ("train", "--flip", "nan", "0 to 1"),
        ("train", "--jitter", "-1", "0 to 1"),
        ("train", "--lr", "nan", "0 to"),
        ("train", "--lr", "-1", "0 to"),
        ("train", "--lr", "1e39", "0 to"),
        ("train", "--epochs", "-1", "above 0"),
        ("train", "--epochs", "0", "above 0"),
        ("train", "--epochs", "inf", "above 0"),
        ("train", "--iterations", "-5", "0 to"),
        ("train", "--lr-steps", "0.5 1.5", "0 to 1"),
        ("train", "--lr-batch", "-16", "0 to"),
        ("train", "--lr-warmup", "-1", "0 to"),
        ("train", "--ema", "1.5", "below 1"),
        ("train", "--ema", "1", "below 1"),
        ("train", "--momentum", "1", "below 1"),
        ("train", "--weight-decay", "-0.1", "0 to"),
        ("train", "--clip", "-1", "0 to"),
        ("train", "--log-every", "0", "1 to"),
        ("train", "--eval-every", "-1", "0 to"),
        ("train", "--checkpoint-every", "-1", "0 to"),
        ("train", "--keep", "-1", "1 to"),
        ("train", "--seed", "-1", "0 to"),
        ("train", "--threads", "-1", "0 to"),
        ("train", "--workers", "-1", "0 to"),
        ("train", "--nms-threshold", "2", "0 to 1"),
        ("train", "--score-threshold", "nan", "0 to 1"),
        ("train", "--detections-per-image", "0", "1 to"),
        ("train", "--backbone-width", "0", "0.125 to"),
        ("train", "--backbone-width", "0.01", "0.125 to"),
        ("train", "--fpn-width", "0", "8 to"),
        ("train", "--head-convs", "5", "0 to 4"),
        ("train", "--anchor-size", "0", "4 to"),
        ("train", "--trainable-layers", "6", "0 to 5"),
        ("distill", "--feat-weight", "-1", "0 to"),
        ("distill", "--head-weight", "nan", "0 to"),
        ("distill", "--warmup-iters", "-1", "0 to"),
        ("visualize", "--score", "nan", "0 to 1"),
        ("visualize", "--limit", "-1", "0 to"),
        ("report", "--images", "-1", "0 to"),
        ("demo", "--iterations", "0", "1 to"),
        ("make-digits", "--size", "0", "32 to"),
        ("make-digits", "--train", "-1", "1 to"),
        ("make-digits", "--seed", "-1", "0 to"),
    ],
)
def test_out_of_range_on_the_command_line(command, option, value, allowed, capsys):
    assert main([command, *NEEDED[command].split(), option, *value.split()]) == 2
    out, err = capsys.readouterr()
    shown = value.split()[-1] if value else "()"
    assert out == "" and err.count("\n") == 1
    assert err.startswith(
        (f"frs-train: {option} is {shown}. ", f"frs-train: {option} is {float_text(shown)}. ")
    )
    assert allowed in err


def float_text(text: str) -> str:
    try:
        return repr(float(text))
    except ValueError:
        return text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--min-size 800 900 --max-size 850", ["--max-size is 850", "--min-size 900"]),
        ("--batch-size 8 --accumulate 3", ["--batch-size 8", "--accumulate 3"]),
        ("--recipe gfl-r101-r50-1x --accumulate 5", ["--batch-size 16", "--accumulate 5"]),
    ],
)
def test_options_that_do_not_go_together(options, words, capsys):
    assert main(["train", "--out", "x", *options.split()]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and all(word in err for word in words)


def test_a_report_of_nothing(capsys):
    assert main(["report"]) == 2
    assert capsys.readouterr().err == "frs-train: RUNS is missing: give the folder of one run or more.\n"


def test_a_copy_is_checked_too():
    with pytest.raises(UserError, match="--lr is nan"):
        replace(TrainConfig(), lr=math.nan)


def test_values_get_the_type_of_their_option():
    config = RunConfig("runs/x", detector=DetectorConfig(min_size=[64, 96]), train=TrainConfig(epochs=3))
    assert config.out == Path("runs/x") and config.detector.min_size == (64, 96)
    assert isinstance(config.train.epochs, float)


def test_a_command_line_makes_what_a_test_makes():
    _, line = parse("distill --out x --lr 0.5 --min-size 64 96 --feat-weight 2".split())
    assert line == DistilledRunConfig(
        out=Path("x"),
        detector=DetectorConfig(min_size=(64, 96)),
        train=TrainConfig(lr=0.5),
        distill=DistillConfig(feat_weight=2),
    )


def test_a_long_value_is_cut_short():
    with pytest.raises(UserError) as refused:
        TrainConfig(batch_size="9" * 1000)
    assert len(str(refused.value)) < 150


def test_ranges_are_what_pydantic_checks():
    """What `whole`, `real` and `several` say and what they let through are the same."""
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
