"""The benchmark report: tables and plots of a small run, stale results, and merging of runs."""

import functools
import json
from pathlib import Path

import pytest

from benchmarks import report, sources, variants
from benchmarks.results import Run, is_finished, may_share_a_file, merge
from benchmarks.workloads import Case


def _bench(name, extra, median):
    return {"name": name, "fullname": f"benchmarks/{name}", "extra_info": extra, "stats": {"median": median}}


def _race(case: Case, **times: float) -> dict:
    turns = {name.replace("_", "-"): {"median": ms / 1e3} for name, ms in times.items()}
    return {"case": vars(case), "turns": turns, "allocator": "default", "copy_gbps": 35.0}


def _run(root: Path, digest: str | None = None) -> dict:
    case = Case("loss", "both", "retinanet-800x1344", 1, "fp32", "nchw")
    race = _race(case, official=300, best_eager=150, compile_best=60, native=10, copy=9)
    single = {
        "case": vars(case), "errors": {"values": 1e-8, "grads": 2e-7}, "result_bytes": case.result_bytes,
        "gbps": 32.7, "copy_share": 0.93, "bytes_moved": case.bytes_moved,
    }  # fmt: skip
    official = {**single, "provider": "official", "peak_bytes": 303_000_000}
    native = {**single, "provider": "native", "peak_bytes": 87_500_000}
    return {
        "machine_info": {"device": "cpu", "name": "Some CPU", "torch": "2.11.0", "build": {"commit": "abc"}},
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "datetime": "2026-01-02T00:00:00",
        "bandwidth_gbps": {"copy": 35.0, "read": 38.0},
        "digests": {"native-cpu": digest or sources.digests("cpu", root)["native-cpu"]},
        "size": "standard",
        "benchmarks": [
            _bench("race", race, 0.01), _bench("official", official, 0.31), _bench("native", native, 0.011)
        ],
    }  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """A repository with one result, one kernel source, a README and a page with a table."""
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    (tmp_path / "csrc/cpu").mkdir(parents=True)
    (tmp_path / "csrc/cpu/mask.cpp").write_text("// one\n")
    (tmp_path / "docs").mkdir()
    for file, (name, _) in report.HEADLINES.items():
        text = f"before\n<!-- {name}:begin -->\nold\n<!-- {name}:end -->\nafter\n"
        (tmp_path / file).write_text(text)
    (tmp_path / "benchmarks/results/cpu-some.json").write_text(json.dumps(_run(tmp_path)))
    return tmp_path


def test_report_writes_page_plots_index_and_headline(root):
    pages = {"docs/results/README.md", "docs/results/cpu-some.md"}
    assert set(report.write(root)) == {*pages, *report.HEADLINES}
    page = (root / "docs/results/cpu-some.md").read_text()
    assert "| **10 ms** |" in page and "300 ms (30.0x)" in page and "60 ms (6.0x)" in page
    assert "310 ms, 303.0 MB" in page and "11 ms, 87.5 MB" in page
    assert "cpu-some-time.png" in page and (root / "docs/results/cpu-some-time.png").stat().st_size > 5000
    readme = (root / "README.md").read_text()
    assert readme.startswith("before\n") and readme.endswith("after\n") and "old" not in readme
    assert "**10 ms** (native) | 30.0x slower | 15.0x slower | 6.0x slower | 93% | 87.5 / 303.0 MB" in readme
    assert "stale" not in (page + readme).lower()


def test_races_of_softmax_losses_have_tables_and_a_plot_of_their_own(root):
    report.write(root)
    before = (root / "README.md").read_text()
    page = (root / "docs/results/cpu-some.md").read_text()
    assert "softmax loss" not in page and not (root / "docs/results/cpu-some-kl.png").exists()
    assert "Not measured yet." in (root / "docs/performance.md").read_text()

    file = root / "benchmarks/results/cpu-some.json"
    content = json.loads(file.read_text())
    case = Case("kd", "both", "retinanet-800x1344", 1, "fp32", "nchw")
    extra = _race(case, official=90, best_eager=45, native=9, copy=9) | {"missing": {"compile-best": "why"}}
    content["benchmarks"].append(_bench("race of kd", extra, 0.009))
    file.write_text(json.dumps(content))
    assert "README.md" not in report.write(root)
    assert (root / "README.md").read_text() == before
    page = (root / "docs/results/cpu-some.md").read_text()
    row = "kd: retinanet-800x1344, B=1, fp32, NCHW, forward + backward"
    assert f"| {row} | 90 ms (10.0x) | 45 ms (5.0x) | **9 ms** | 21.5 | 35.0 | 61% |" in page
    assert f"- No compile-best on {row}: why" in page
    assert (root / "docs/results/cpu-some-kl.png").stat().st_size > 5000
    table = (root / "docs/performance.md").read_text()
    assert (
        "| Some CPU, kd of retinanet-800x1344, B=1, fp32, NCHW | **9 ms** (native) | 10.0x slower |" in table
    )
    assert table.startswith("before\n") and table.endswith("after\n") and "old" not in table


def test_every_table_and_plot_names_its_source(root):
    report.write(root)
    page = (root / "docs/results/cpu-some.md").read_text()
    digest = sources.digests("cpu", root)["native-cpu"]
    source = f"*cpu-some.json: Some CPU, torch 2.11.0, kernel sources native-cpu {digest}*"
    shown = page.count("|---|") + page.count("![")
    assert shown >= 4 and page.count(source) == shown


def test_numbers_are_stale_once_a_kernel_source_has_changed(root):
    report.write(root)
    assert report.write(root, check=True) == []
    (root / "csrc/cpu/mask.cpp").write_text("int two;\n")
    assert set(report.write(root, check=True)) == {
        "docs/results/README.md", "docs/results/cpu-some.md", "README.md"
    }  # fmt: skip
    report.write(root)
    page = (root / "docs/results/cpu-some.md").read_text()
    assert "> **Stale.**" in page and "*STALE" in page and "*STALE" in (root / "README.md").read_text()


@pytest.mark.parametrize(
    ("uncommitted", "build", "named"),
    [
        (["csrc/cpu/mask.cpp"], "abc", "csrc/cpu/mask.cpp"),
        (["csrc/cpu/mask.cpp"], "abc-dirty", "csrc/cpu/mask.cpp"),
        (None, "abc-dirty", "abc-dirty"),
        (None, "abc", None),
        ([], "abc-dirty", None),  # what was committed before the measurement, or is no kernel
        (None, None, None),  # sources without git
    ],
)
def test_uncommitted_kernels_get_no_page(root, capsys, monkeypatch, uncommitted, build, named):
    monkeypatch.setattr(report, "write", functools.partial(report.write, root))
    file = root / "benchmarks/results/cpu-some.json"
    content = json.loads(file.read_text())
    content["commit_info"]["uncommitted_kernels"] = uncommitted
    content["machine_info"]["build"]["commit"] = build
    file.write_text(json.dumps(content))
    assert report.main([]) == (0 if named is None else 1)
    assert (root / "docs/results/cpu-some.md").exists() == (named is None)
    if named:
        error = capsys.readouterr().err
        assert "benchmarks/results/cpu-some.json was measured with uncommitted changes" in error
        assert named in error


def test_cuda_sources_leave_cpu_numbers_current(root):
    (root / "csrc/cuda").mkdir()
    (root / "csrc/cuda/mask.cu").write_text("int two;\n")
    assert not Run.read(root / "benchmarks/results/cpu-some.json", root).stale


def test_a_benchmark_that_failed_after_its_timing_is_no_result(root):
    file = root / "benchmarks/results/cpu-some.json"
    content = json.loads(file.read_text())
    content["benchmarks"].append(_bench("half", {"size": "standard"}, 1.0))
    file.write_text(json.dumps(content))
    run = Run.read(file, root)
    assert (len(run.races), len(run.singles), len(run.steps)) == (1, 2, 0)
    assert not is_finished(content["benchmarks"][-1], "quick")


def test_a_gpu_page_has_launches_and_host_time(root):
    file = root / "benchmarks/results/cpu-some.json"
    content = json.loads(file.read_text())
    content["benchmarks"][2]["extra_info"] |= {
        "launches": 3, "host_us": 120.0, "wall_ms": 1.2, "host_behind_ms": 1.05,
        "kernels": [{"name": "score_kernel", "us": 172.4}, {"name": "loss_kernel", "us": 702.0}],
    }  # fmt: skip
    file.write_text(json.dumps(content))
    report.write(root)
    page = (root / "docs/results/cpu-some.md").read_text()
    assert "| native | 3 | 120 | 1.2 | 1.05 | 11 |" in page
    assert "| native | score_kernel 172; loss_kernel 702 |" in page


def test_providers_missing_from_a_race_are_listed_under_its_table(root):
    file = root / "benchmarks/results/cpu-some.json"
    content = json.loads(file.read_text())
    extra = content["benchmarks"][0]["extra_info"]
    del extra["turns"]["official"]
    extra["missing"] = {"official": "official needs more memory than this GPU has"}
    file.write_text(json.dumps(content))
    report.write(root)
    page = (root / "docs/results/cpu-some.md").read_text()
    assert (
        "- No official on retinanet-800x1344, B=1, fp32, NCHW, forward + backward: official needs more"
        in page
    )
    assert "| - | 15.0x slower |" in (root / "README.md").read_text()


def test_the_page_of_variants_is_up_to_date():
    folder = sources.ROOT / "benchmarks/results/nvidia-h200"
    assert variants.page(folder) == (folder / "variants.md").read_text()


def test_a_run_of_a_variant_that_ended_early_keeps_its_measurements():
    text = (
        "=== one 16\nbf16 nchw B=16: right, errors\n  whole, 4C + 3F   739.5 us\n  level 0: whole   1.0 us\n"
        "  mask, C   131.1 us\nfp32 nchw B=16: right, errors\nCUDA error\n=== two 1\n"
    )
    times = {("bf16 nchw", "whole"): "739.5", ("bf16 nchw", "mask"): "131.1"}
    assert variants.runs(text) == [("one", "16", times), ("two", "1", {})]


@pytest.mark.parametrize("file", report.HEADLINES)
def test_a_file_without_the_markers_of_its_table_is_an_error(root, file):
    (root / file).write_text("no table wanted\n")
    with pytest.raises(ValueError, match=f"{file} has no .*:begin"):
        report.write(root)


def test_without_results_the_headline_says_so():
    for file, (name, _) in report.HEADLINES.items():
        text = report.with_headline(file, f"<!-- {name}:begin -->\n<!-- {name}:end -->\n", [])
        assert "Not measured yet." in text


def test_merge_keeps_benchmarks_that_only_the_older_run_has(tmp_path):
    older, newer = _run(tmp_path, "d1"), _run(tmp_path, "d1")
    newer["benchmarks"] = [_bench("official", newer["benchmarks"][1]["extra_info"], 0.5)]
    merged = merge(older, newer)["benchmarks"]
    assert sorted((b["name"], b["stats"]["median"]) for b in merged) == [
        ("native", 0.011), ("official", 0.5), ("race", 0.01)
    ]  # fmt: skip


def test_runs_share_a_file_if_kernels_machine_and_torch_are_the_same(tmp_path):
    """Neither the time of the build nor the CPU of a machine with a GPU counts."""
    older = _run(tmp_path, "d1")
    older["machine_info"] = {
        "device": "cuda",
        "name": "NVIDIA H100",
        "torch": "2.11.0",
        "cpu": "A",
        "cores": 8,
    }
    newer = {
        **older,
        "machine_info": {**older["machine_info"], "cpu": "B", "cores": 16, "build": {"time": 1}},
    }
    assert may_share_a_file(older, newer)
    assert not may_share_a_file(older, {**newer, "digests": {"native-cuda": "d2"}})
    for name in ("name", "torch"):
        assert not may_share_a_file(
            older, {**newer, "machine_info": {**newer["machine_info"], name: "another"}}
        )
    on_cpu = {**older, "machine_info": {**older["machine_info"], "device": "cpu"}}
    assert not may_share_a_file(on_cpu, {**on_cpu, "machine_info": {**on_cpu["machine_info"], "cores": 4}})


def test_merge_keeps_the_numbers_of_the_larger_size(tmp_path):
    def sized(size, median):
        content = {**_run(tmp_path, "d1"), "size": size}
        content["benchmarks"] = [_bench("native", {"size": size, "case": {}}, median)]
        return content

    merged = merge(sized("standard", 1.0), sized("quick", 2.0))
    assert merged["size"] == "standard" and merged["benchmarks"][0]["stats"]["median"] == 1.0
    merged = merge(sized("standard", 1.0), sized("standard", 2.0))
    assert merged["benchmarks"][0]["stats"]["median"] == 2.0
    unfinished = sized("standard", 1.0)
    unfinished["benchmarks"][0]["extra_info"]["unfinished"] = True
    assert not is_finished(unfinished["benchmarks"][0], "quick")
    assert merge(unfinished, sized("standard", 2.0))["benchmarks"][0]["stats"]["median"] == 2.0


def test_a_committed_result_names_no_path_and_no_host():
    files = list((sources.ROOT / "benchmarks/results").glob("*.json"))
    assert files
    for file in files:
        content = json.loads(file.read_text())
        assert "node" not in content["machine_info"]
        words = json.dumps([content["machine_info"], content["commit_info"]])
        assert "/home/" not in words and "/tmp/" not in words


def test_index_lists_runs_and_the_pages_of_trainings(root):
    (root / "docs/results").mkdir()
    (root / "docs/results/digits.md").write_text("# Digits\n\ntext\n")
    report.write(root)
    index = (root / "docs/results/README.md").read_text()
    assert "[Some CPU](cpu-some.md), 2026-01-02" in index and "- [Digits](digits.md)" in index
