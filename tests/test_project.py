"""The files around the code: workflows, templates, hooks, changelog, citation, commands for editors."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import frs_kernels

ROOT = Path(__file__).resolve().parents[1]
INFO = "python -m frs_kernels.info"
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.fixture
def load():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    return lambda path: yaml.safe_load((ROOT / path).read_text())


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


def test_there_is_a_workflow_for_each_purpose():
    assert [path.stem for path in WORKFLOWS] == ["lint", "release", "tests", "wheels"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestWorkflow:
    def test_may_read_alone_unless_a_job_says_what_it_writes(self, load, path):
        workflow = load(path)
        assert workflow["permissions"] == {"contents": "read"}
        written = {
            job: spec["permissions"] for job, spec in workflow["jobs"].items() if "permissions" in spec
        }
        allowed = {"pypi": {"id-token": "write"}, "github": {"contents": "write"}}
        assert written == (allowed if path.stem == "release" else {})

    def test_jobs_end_and_do_not_pile_up(self, load, path):
        workflow = load(path)
        assert "${{ github.ref }}" in workflow["concurrency"]["group"]
        called = [job for job in workflow["jobs"].values() if "uses" in job]  # it has the limits of its own
        assert all(
            1 <= job["timeout-minutes"] <= 120 for job in workflow["jobs"].values() if job not in called
        )

    def test_make_has_the_targets_that_are_called(self, load, path):
        rules = re.findall(r"^([\w -]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
        targets = {target for rule in rules for target in rule.split()}
        commands = " ".join(step.get("run", "") for step in steps(load(path)))
        called = set(re.findall(r"\bmake ([\w-]+)", commands))
        assert bool(called) == (path.stem != "release")
        assert called <= targets

    def test_files_that_are_named_exist(self, load, path):
        commands = " ".join(step.get("run", "") for step in steps(load(path)))
        commands = commands.replace("$GITHUB_WORKSPACE/", "")
        assert [file for file in re.findall(r"[\w./]+\.py\b", commands) if not (ROOT / file).exists()] == []

    def test_is_valid(self, path):
        if not shutil.which("actionlint"):
            pytest.skip("actionlint is not installed; the hook of pre-commit brings it")
        done = subprocess.run(["actionlint", str(path)], text=True, capture_output=True)
        assert done.returncode == 0, done.stdout


def test_the_workflows_test_the_oldest_python_and_a_new_one(load):
    matrix = load(".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.10", "3.13"]


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_forms_ask_for_the_report(load, form):
    fields = [field for field in load(f".github/ISSUE_TEMPLATE/{form}.yml")["body"] if field["id"] == "info"]
    assert INFO in fields[0]["attributes"]["label"] and fields[0]["validations"]["required"]


def test_pull_requests_ask_for_the_report():
    assert INFO in (ROOT / ".github/PULL_REQUEST_TEMPLATE.md").read_text()


def test_hooks_have_the_versions_of_make(load):
    hooks = [hook for repo in load(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {"ruff", "ruff-format", "clang-format", "actionlint"} <= {hook["id"] for hook in hooks}
    packages = dict(package.split("==") for hook in hooks for package in hook["additional_dependencies"])
    pins = re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    pinned_by_make = {name: version for name, version in pins if name in packages}
    assert pinned_by_make.keys() == {"ruff", "clang-format"}
    assert pinned_by_make.items() <= packages.items()


def release_notes(tag: str, root: Path = ROOT):
    """What the workflow runs for a tag: (status, standard output, standard error)."""
    program = root / ".github/release_notes.py"
    done = subprocess.run([sys.executable, str(program), tag], text=True, capture_output=True)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def released(tmp_path):
    """A copy of the files that name a version, in which what is unreleased has become 7.8.9."""
    for file in (".github/release_notes.py", "frs_kernels/__init__.py", "CHANGELOG.md", "CITATION.cff"):
        text = (ROOT / file).read_text()
        version = rf'(^version: |^__version__ = "){re.escape(frs_kernels.__version__)}'
        text = re.sub(version, r"\g<1>7.8.9", text, flags=re.MULTILINE)
        text = text.replace("## Unreleased", "## Unreleased\n\n## 7.8.9 - 2099-01-01\n\nNew.\n", 1)
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    return tmp_path


def test_a_release_has_the_notes_of_its_version(released):
    status, text, _ = release_notes("v7.8.9", released)
    assert status == 0 and text.startswith("New.") and "## 0.1.0" not in text


@pytest.mark.parametrize("tag", ["7.8.9", "v7.8", "v7.8.9rc1", "v0.1.0"])
def test_a_tag_is_the_version(released, tag):
    status, text, error = release_notes(tag, released)
    assert (status, text) == (1, "") and f"the tag is {tag}" in error and "v7.8.9" in error


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("CITATION.cff", "7.8.9", "7.8.8", "CITATION.cff is of version 7.8.8"),
        ("CHANGELOG.md", "## Unreleased\n", "## Unreleased\n\n- Forgotten.\n", "move them under 7.8.9"),
        ("CHANGELOG.md", "## 7.8.9 ", "## 7.8.8 ", "nothing under 7.8.9"),
    ],
)
def test_a_release_is_refused_unless_all_files_agree(released, file, old, new, reason):
    text = (released / file).read_text()
    assert old in text
    (released / file).write_text(text.replace(old, new))
    status, text, error = release_notes("v7.8.9", released)
    assert (status, text) == (1, "") and reason in error


def test_tags_are_versions_that_the_changelog_has():
    done = subprocess.run(["git", "tag", "--list", "v*"], cwd=ROOT, text=True, capture_output=True)
    known = re.findall(r"^## (\d\S*) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert known == sorted(known, key=lambda version: [int(n) for n in version.split(".")], reverse=True)
    assert known[0] == frs_kernels.__version__  # the version is raised together with the changelog
    assert set(done.stdout.split()) <= {f"v{version}" for version in known}


def test_the_citation_is_of_this_version(load):
    citation = load("CITATION.cff")
    assert citation["version"] == frs_kernels.__version__
    assert citation["preferred-citation"]["title"] in " ".join((ROOT / "README.md").read_text().split())
    assert "2111.00674" in citation["preferred-citation"]["url"]


def test_compile_commands_name_every_source(tmp_path):
    """`make compile_commands.json` asks ninja for them, from the file that the last build has written."""
    files = sorted((ROOT / "build").glob(f"*{sys.implementation.cache_tag}/build.ninja"))
    if not files:
        pytest.skip("no build under build/")
    ninja = pytest.importorskip("ninja")
    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-f", str(files[-1]), "-t", "compdb", "cxx", "nvcc"]
    listed = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    sources = {entry["file"] for entry in json.loads(listed)}
    expected = [path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc/cpu").rglob("*.cpp")]
    assert set(expected) <= sources
