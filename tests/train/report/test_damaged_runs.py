"""Damaged run folders: each error names the file, and only `UserError` is raised."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_reports import make_run, spoilt

from frs_train.errors import UserError
from frs_train.report.page import class_table, differences, full_config, results_table, write_report
from frs_train.report.runs import read_runs


def test_folder_that_is_not_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def without_detector(text):
    return json.dumps({key: value for key, value in json.loads(text).items() if key != "detector"})


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("result.json", lambda text: text[:-20], "result.json is not what frs-train writes"),
        ("result.json", lambda _: "null", "result.json .*the whole"),
        ("result.json", lambda text: text.replace('"AR": 0.5', '"AR": "x"'), "result.json .*AR: .*number"),
        ("metrics.jsonl", lambda text: text.replace("\n", "\nhello\n", 1), "metrics.jsonl, line 2 "),
        ("metrics.jsonl", lambda text: '{"kind": "test", "iteration": 3}\n' + text, "metrics.jsonl, line 1 "),
        ("metrics.jsonl", lambda text: text.replace('"loss": 0.15', '"loss": null'), "line 2 .*loss"),
        ("metrics.jsonl", lambda text: text.replace("0.15", "NaN"), "line 2 .*loss: .*finite"),
        ("config.json", without_detector, "config.json .*detector: Field required"),
        ("config.json", lambda text: text[:50], "config.json is not what"),
    ],
)
def test_damaged_file_is_named(tmp_path, data, file, change, words):
    run = spoilt(make_run(tmp_path / "a", data, 0.2), file, change)
    with pytest.raises(UserError, match=words) as error:
        write_report([run], tmp_path / "report.html", images=0)
    assert str(run / file) in str(error.value) and not (tmp_path / "report.html").exists()


def test_incomplete_last_line_is_left_out(tmp_path, data):
    run = spoilt(make_run(tmp_path / "a", data, 0.2), "metrics.jsonl", lambda text: text + '{"kind": "tr')
    assert len(read_runs([run])[0].train) == 3


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["config.json", "metrics.jsonl", "result.json"]), st.data())
def test_damaged_run_folder_raises_only_user_errors(sound, file, draw):
    """A value of the file is replaced, or a part of it is removed or replaced by random bytes."""
    text = sound[file]
    lines = text.splitlines(keepends=True) if file == "metrics.jsonl" else [text]
    number = draw.draw(st.integers(0, len(lines) - 1))
    if draw.draw(st.booleans()):
        record = json.loads(lines[number])
        inside = record.get(draw.draw(st.sampled_from(sorted(record))))
        place = inside if isinstance(inside, dict) and inside and draw.draw(st.booleans()) else record
        place[draw.draw(st.sampled_from(sorted(place)))] = draw.draw(JUNK)
        lines[number] = json.dumps(record) + "\n"
        raw = "".join(lines).encode()
    else:
        first, last = sorted(draw.draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        raw = text[:first].encode() + draw.draw(st.binary(max_size=3)) + text[last:].encode()
    folder = sound["folder"]
    (folder / file).write_bytes(raw)
    try:
        runs = read_runs([folder])
        for show in (results_table, class_table, differences, lambda runs: full_config(runs[0])):
            show(runs).encode()
    except UserError as error:
        assert file in str(error)
    finally:
        (folder / file).write_text(text)


@pytest.fixture(scope="module")
def sound(tmp_path_factory, data):
    """An undamaged run folder and the texts of its files."""
    folder = make_run(tmp_path_factory.mktemp("sound") / "a", data, 0.2)
    return {"folder": folder} | {path.name: path.read_text() for path in folder.glob("*.json*")}
