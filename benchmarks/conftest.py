"""The benchmarks' options, clock and order, and what the JSON holds besides the times."""

import time
from pathlib import Path

import pytest
import torch

from benchmarks import bandwidth, machine, selection, sources, timers
from benchmarks.measure import Call, rounds_for
from benchmarks.providers import PROVIDERS
from benchmarks.result_file import ResultFile
from benchmarks.workloads import Case, make_inputs


def pytest_addoption(parser):
    parser.addoption(
        "--size",
        choices=selection.SIZES,
        default="small",
        help="how much to measure: quick is a first look at a GPU, small shows that the suite runs "
        "(2 minutes), standard makes the committed results (25 minutes on a CPU, 14 on a GPU), full is "
        "everything",
    )
    parser.addoption(
        "--into",
        type=Path,
        help="a JSON file to which every benchmark is added as soon as it is measured; those that the file "
        f"already holds are skipped; the exit status is {TIME_SPENT} if the time was too short for all",
    )


def pytest_configure(config):
    config.stash[_DEVICE] = machine.default_device()
    config.stash[_STARTED] = time.monotonic()
    file, size = config.getoption("into"), config.getoption("size")
    config.stash[_RESULTS] = ResultFile(config, file, config.stash[_DEVICE], size) if file else None
    config.stash[_SKIPPED] = False
    config.option.benchmark_columns = config.option.benchmark_columns or ["min", "median", "iqr", "rounds"]


def pytest_report_header(config):
    changed = sources.uncommitted(config.stash[_DEVICE])
    return f"uncommitted kernels, so these results get no page: {', '.join(changed)}" if changed else None


def pytest_generate_tests(metafunc):
    size, device = metafunc.config.getoption("size"), metafunc.config.stash[_DEVICE]
    if "provider" in metafunc.fixturenames:
        pairs = selection.pairs(metafunc.module.OPS, size, device)
        ids = [f"{case}-{name}" for case, name in pairs]
        metafunc.parametrize("case, provider", [(c, PROVIDERS[name]) for c, name in pairs], ids=ids)
    elif "allocator" in metafunc.fixturenames:
        races = selection.races(size, device)
        metafunc.parametrize("case, allocator", races, ids=[f"{case}-{kind}" for case, kind in races])
    elif "step" in metafunc.fixturenames:
        metafunc.parametrize("step", metafunc.module.STEPS.get((device, size), []), ids=str)


def pytest_collection_modifyitems(config, items):
    """Sorts the most important files first, and last what changes malloc for the rest of the process.

    Gives every item its clock and its group.
    """

    files = list(selection.SHARES)

    def rank(item):
        warm = _parameter(item, "allocator") == "warm"
        return warm, files.index(item.path.stem)

    items.sort(key=rank)
    clock = timers.clock(config.stash[_DEVICE])
    for item in items:
        group = str(_parameter(item, "case") or _parameter(item, "step"))
        item.add_marker(pytest.mark.benchmark(timer=clock, group=group, disable_gc=True))


def _parameter(item, name: str):
    return item.callspec.params.get(name) if hasattr(item, "callspec") else None


def _minutes(item) -> float:
    """Minutes from the start of the session after which an item no longer starts."""
    minutes = selection.BUDGET[item.config.stash[_DEVICE], item.config.getoption("size")]
    minutes *= sum(selection.SHARES[name] for name in {other.path.stem for other in item.session.items})
    if _parameter(item.session.items[-1], "allocator") == "warm" != _parameter(item, "allocator"):
        minutes *= 1 - selection.RESERVED
    return minutes


def _seconds_left(item) -> float:
    return item.config.stash[_STARTED] + 60 * _minutes(item) - time.monotonic()


def _is_measured(item) -> bool:
    results = item.config.stash[_RESULTS]
    return results is not None and item.nodeid in results.measured


def pytest_runtest_setup(item):
    if _is_measured(item):
        pytest.skip("already measured")
    if _seconds_left(item) < 0:
        item.config.stash[_SKIPPED] = True
        pytest.skip(f"the {_minutes(item):.1f} minutes of this size for these files are over")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    try:
        return (yield)
    finally:
        if item.config.stash[_RESULTS]:
            item.config.stash[_RESULTS].write()


def pytest_sessionfinish(session, exitstatus):
    spent = session.config.stash[_SKIPPED] and session.config.stash[_RESULTS]
    if spent and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = TIME_SPENT


@pytest.fixture
def share(request) -> float:
    """Seconds for this test: the remaining time less the shortest time of each later test of its file.

    So the first, most important ones get all they need. Every test gets at least an equal share.
    """
    items = request.session.items
    later = items[items.index(request.node) + 1 :]
    waiting = sum(item.path == request.node.path and not _is_measured(item) for item in later)
    left = max(0.0, _seconds_left(request.node))
    return max(left / (1 + waiting), left - selection.SHORTEST_RACE * waiting)


@pytest.fixture(scope="session")
def device(pytestconfig) -> str:
    return pytestconfig.stash[_DEVICE]


@pytest.fixture(scope="session")
def seconds(pytestconfig) -> float:
    """Seconds of timed rounds per case."""
    return selection.SECONDS_PER_CASE[pytestconfig.getoption("size")]


@pytest.fixture(scope="session")
def copier(device, pytestconfig) -> bandwidth.Copier:
    pytestconfig.stash[_COPIER] = bandwidth.Copier(device)
    return pytestconfig.stash[_COPIER]


@pytest.fixture(scope="session")
def flush(device):
    return bandwidth.flusher(device)


@pytest.fixture
def prepare(device, flush):
    """prepare(case, provider): a checked and warmed-up call. Skips with a reason if there is none."""

    def prepare_(case: Case, provider, inputs=None) -> tuple[Call, dict, float]:
        reason = provider.unavailable(device, case.op)
        if reason:
            pytest.skip(f"{provider.name}: {reason}")
        try:
            inputs = make_inputs(case, device) if inputs is None else inputs
            call = Call(case, provider, inputs, device, flush)
            return call, call.check(), call.warm_up()
        except torch.OutOfMemoryError:
            pytest.skip(f"{provider.name} needs more memory than this GPU has")

    torch._dynamo.reset()  # otherwise the second shape is compiled as dynamic, and the ninth not at all
    try:
        yield prepare_
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()


@pytest.fixture
def measure(prepare, benchmark, copier, device, seconds):
    """measure(case, provider): checks, times and describes one benchmark."""

    def measure_(case: Case, provider) -> None:
        call, errors, once = prepare(case, provider)
        peak = call.peak_memory()
        benchmark.pedantic(call.run, setup=call.setup, rounds=rounds_for(once, seconds))
        benchmark.extra_info.update(
            case=vars(case), provider=provider.name, errors=errors, peak_bytes=peak,
            result_bytes=case.result_bytes, bytes_moved=case.bytes_moved,
        )  # fmt: skip
        if case.bytes_moved:
            gbps = case.bytes_moved / benchmark.stats.stats.median / 1e9
            benchmark.extra_info.update(gbps=gbps, copy_share=gbps / copier.best)
        if device == "cuda":
            benchmark.extra_info["unfinished"] = True
            benchmark.extra_info.update(call.gpu_details())
            del benchmark.extra_info["unfinished"]

    return measure_


def pytest_benchmark_generate_machine_info(config):
    return machine.describe(config.stash[_DEVICE])


def pytest_benchmark_update_json(config, output_json):
    """Adds what is measured once per run and drops what no reader of the file needs."""
    copier = config.stash.get(_COPIER, None)
    output_json["bandwidth_gbps"] = copier.gbps if copier else {}
    output_json["digests"] = sources.digests(config.stash[_DEVICE])
    output_json["size"] = config.getoption("size")
    output_json["commit_info"] = {
        "id": output_json["commit_info"].get("id"),
        "dirty": output_json["commit_info"].get("dirty"),
        "uncommitted_kernels": sources.uncommitted(config.stash[_DEVICE]),
    }
    for bench in output_json["benchmarks"]:
        bench["extra_info"]["size"] = output_json["size"]
        bench["stats"].pop("data", None)
        for name in ("params", "options"):
            bench.pop(name)


TIME_SPENT = 9  # not an exit status of pytest

_DEVICE = pytest.StashKey[str]()
_RESULTS = pytest.StashKey[ResultFile | None]()
_SKIPPED = pytest.StashKey[bool]()
_STARTED = pytest.StashKey[float]()
_COPIER = pytest.StashKey[bandwidth.Copier]()
