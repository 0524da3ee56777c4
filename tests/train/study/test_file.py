"""The study file and the runs that follow from it: fairness is part of what is checked."""

from pathlib import Path

import pytest
import studies

from frs_train.errors import UserError
from frs_train.study.file import read_study
from frs_train.study.plan import Plan

EVIDENCE = Path(__file__).parents[3] / "docs/evidence"


def plan(tmp_path, *changes) -> Plan:
    return Plan(read_study(studies.write(tmp_path, *changes)), tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [1, 2]", "seeds = []", "--seeds is \\(\\)|--seeds is \\[\\]"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "seeds has a seed twice: \\[1, 1\\]"),
        ("seeds = [1, 2]", "seeds = [1, 101]", "seeds and tuning_seeds must differ"),
        ("seeds = [1, 2]", "seeds = [1, 2", "study.toml is not TOML"),
        ('"whole-map"]', '"whole"]', "baselines names 'whole', which is no arm"),
        ("[arms.frs]", '[arms."a/b"]', "must have a name of letters"),
        ("seeds = [1, 2]", "seed = [1, 2]", "There is no option 'seed'"),
        ("head_weight = 0.1", "head_wight = 0.1", "\\[arms.frs\\] on \\[data.digits\\]: There is no option"),
        ("head_weight = 0.1", "head_weight = -1", "\\[arms.frs\\] on \\[data.digits\\]: --head-weight is -1"),
        (", { feat_weight = 0.01 }]\n\n", "]\n\n", "as many candidates as the others.*whole-map 1, frs 2"),
        ("seed = 7", "seed = 0", "needs other validation images"),
        ("tuning.digits = ", "# ", "needs other validation images"),
        ("size = 64, seed = 7", "size = 8, seed = 7", "8. Input should be greater than or equal to 32"),
        ("[teacher]", "[teacher]\ndistill = { feat_weight = 1 }", "There is no option 'distill'"),
        ("[data.digits]\n", "[data.digits]\ntime = 3\n", "There is no option 'time'"),
    ],
)
def test_a_mistake_is_named(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message):
        plan(tmp_path, (old, new))


@pytest.mark.parametrize("name", ["claim", "softmax"])
def test_the_documented_studies_are_valid(tmp_path, name):
    """Every configuration of every run is created."""
    found = Plan(read_study(EVIDENCE / f"{name}.toml"), tmp_path)
    arms = found.study.arms
    runs = [found.student(data, arm, 1).config for data in found.study.data for arm in arms]
    assert {r.detector.family for r in runs} == {"fcos" if name == "claim" else "gfl"}
    assert {r.distill.method for r in runs} == {arm.distill["method"] for arm in arms.values()}
    assert len(found.tuning()) == len(found.study.data) * sum(len(arm.candidates) for arm in arms.values())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="Study file .*nowhere.toml cannot be read"):
        read_study(tmp_path / "nowhere.toml")


def test_runs_of_a_seed_differ_in_their_distillation_only(tmp_path):
    """What the arms of a data set share: detector, training, seed and images."""
    found = plan(tmp_path)
    runs = [found.student("digits", arm, 2).config for arm in found.study.arms]
    assert len({str((r.detector, r.train, r.data)) for r in runs}) == 1
    assert [r.distill.method for r in runs] == ["none", "whole-map", "frs"]
    assert {r.distill.teacher for r in runs} == {str(tmp_path / "out/digits/teacher")}
    assert len({r.out for r in runs}) == 3 and {r.train.seed for r in runs} == {2}


def test_weights_are_chosen_on_other_seeds_and_images_equally(tmp_path):
    found = plan(tmp_path, ("seeds = [1, 2]", "seeds = [1, 2]\ntuning_seeds = [8, 9]"))
    reported = found.student("digits", "frs", 1).config
    tuning = [run.config for run in found.tuning()]
    assert {run.train.seed for run in tuning} == {8, 9}
    assert reported.data.val_annotations not in {run.data.val_annotations for run in tuning}
    methods = [run.distill.method for run in tuning]
    assert methods.count("frs") == methods.count("whole-map") == 2 * 2 and "none" not in methods
    assert len({run.out for run in tuning}) == len(tuning)


def test_a_data_set_overrides_the_pair(tmp_path):
    more = "[data.digits]\nstudent.train = { iterations = 5 }\nteacher.checkpoint = 'some.pt'\n"
    found = plan(tmp_path, ("[data.digits]\n", more))
    assert found.teachers() == []
    run = found.student("digits", "frs", 1, 1).config
    assert (run.train.iterations, run.train.batch_size, run.distill.teacher) == (5, 2, "some.pt")
    assert (run.distill.feat_weight, run.distill.head_weight) == (0.01, 0.1)


def test_images_for_tuning_can_differ_in_a_path_only(tmp_path):
    paths = ["train_annotations", "train_images", "val_annotations", "val_images"]
    data = ", ".join(f'{name} = "{name}"' for name in paths)
    found = plan(
        tmp_path,
        ("digits = { train = 4, val = 2, size = 64 }", f"data = {{ {data} }}"),
        ("tuning.digits = { train = 4, val = 2, size = 64, seed = 7 }", 'tuning.data.val_annotations = "x"'),
    )
    tuning, reported = found.tuning()[0].config.data, found.student("digits", "frs", 1).config.data
    assert str(tuning.val_annotations) == "x" and str(reported.val_annotations) == "val_annotations"
    assert tuning.val_images == reported.val_images and found.made() == []
