"""Values of options: a number is accepted, or refused with a message that names the option and its range."""

import json
import math
from typing import get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from option_sets import NEEDED, NUMBERS, called, minimal, shown_by

from frs_train.cli.main import main, parse
from frs_train.errors import UserError
from frs_train.options import from_dict, to_dict

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
def test_number_is_accepted_or_refused_with_its_name(kind, name, hint, data):
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
def test_command_line_raises_only_refusals(data):
    """Any text for a number is accepted, refused by tyro as not a number, or refused as out of range."""
    command = data.draw(
        st.sampled_from(["train", "distill", "eval", "visualize", "predict", "demo", "make-digits"])
    )
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
        ("distill", "--ld-weight", "-1", "0 to"),
        ("distill", "--ld-temperature", "0", "above 0"),
        ("distill", "--cwd-temperature", "inf", "above 0"),
        ("distill", "--kd-temperature", "-2", "above 0"),
        ("distill", "--warmup-iters", "-1", "0 to"),
        ("visualize", "--score", "nan", "0 to 1"),
        ("visualize", "--limit", "-1", "0 to"),
        ("predict", "--score", "nan", "0 to 1"),
        ("predict", "--picture-score", "2", "0 to 1"),
        ("predict", "--batch-size", "0", "1 to"),
        ("predict", "--limit", "-1", "0 to"),
        ("report", "--images", "-1", "0 to"),
        ("demo", "--iterations", "0", "1 to"),
        ("make-digits", "--size", "0", "32 to"),
        ("make-digits", "--train", "-1", "1 to"),
        ("make-digits", "--seed", "-1", "0 to"),
    ],
)
def test_value_out_of_range_on_the_command_line_is_refused(command, option, value, allowed, capsys):
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
def test_contradicting_options_are_refused(options, words, capsys):
    assert main(["train", "--out", "x", *options.split()]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and all(word in err for word in words)


def test_report_without_runs_is_an_error(capsys):
    assert main(["report"]) == 2
    assert capsys.readouterr().err == "frs-train: RUNS is missing: give the folder of one run or more.\n"
