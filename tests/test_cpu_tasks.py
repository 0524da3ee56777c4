"""The tasks of the CPU kernels (csrc/cpu/loss_plan.cpp) and the region that runs them (csrc/cpu/tasks.h)."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.schedule_model import Task
from frs_kernels.contract import NORMALIZERS

host = pytest.importorskip("frs_kernels._host", reason="_host is not built")

THREADS = st.sampled_from((1, 2, 3, 8, 64, 192))
SHAPE = st.tuples(st.integers(0, 3), st.integers(0, 70), st.integers(0, 70), st.integers(0, 3000))
LEVELS = st.lists(SHAPE, min_size=1, max_size=16)  # (batch, features, logits, locations)
RETINANET = [(1, 256, 720, n) for n in (16800, 4200, 1050, 273, 77)]
MODES = "mask_given", "mask_first", "single_pass"
NORMALIZER = st.sampled_from(NORMALIZERS)
RUN, SEGMENT = 256, 1024  # locations with a sum of their own, isa.h: kRun, kSegment


def tasks_of(levels, mode, channel_major, threads, normalizer="mask"):
    code = NORMALIZERS.index(normalizer)
    return [Task(*values) for values in host.loss_tasks(levels, mode, channel_major, threads, code)]


@pytest.mark.parametrize("mode", MODES)
@given(levels=LEVELS, channel_major=st.booleans(), threads=THREADS, normalizer=NORMALIZER)
def test_every_element_belongs_to_one_task_of_a_pass(mode, levels, channel_major, threads, normalizer):
    corners = defaultdict(Counter)  # a tile adds 1 to all elements from one corner on, and takes it off again
    for t in tasks_of(levels, mode, channel_major, threads, normalizer):
        assert t.elements > 0 or t.kind in ("mask", "single")
        for channel, sign in ((t.channel, 1), (t.channel + t.channels, -1)):
            for location, flip in ((t.location, 1), (t.location + t.locations, -1)):
                corners[t.kind, t.level, t.image][channel, location] += sign * flip
    kinds = ("single",) if mode == "single_pass" else ("mask", "head", "imitation")
    for index, (batch, features, logits, locations) in enumerate(levels):
        for image, kind in ((image, kind) for image in range(batch) for kind in kinds):
            channels = features if kind == "imitation" else logits
            left = {corner: n for corner, n in corners.pop((kind, index, image), Counter()).items() if n}
            if channels and locations:
                ends = {(0, 0): 1, (channels, 0): -1, (0, locations): -1, (channels, locations): 1}
                assert left == ends
            else:
                assert left == {}
    assert not corners


@pytest.mark.parametrize("mode", MODES)
@given(levels=LEVELS, channel_major=st.booleans(), threads=THREADS, normalizer=NORMALIZER)
def test_every_partial_sum_is_written_once_and_belongs_to_the_same_elements(
    mode, levels, channel_major, threads, normalizer
):
    def sums(threads):
        """{(whether over segments, index of a sum): (kind, level, image, first channel, first location)}"""
        result = {}
        for t in tasks_of(levels, mode, channel_major, threads, normalizer):
            over_segments = t.kind in ("head", "imitation")
            channels = levels[t.level][1 if t.kind == "imitation" else 2]
            one_sum = channel_major and channels > 1  # a tile; with one channel, it is location-major
            step = RUN if not over_segments else max(t.locations, 1) if one_sum else SEGMENT
            for i, location in enumerate(range(0, t.locations, step)):
                key = over_segments, t.first_sum + i
                assert key not in result
                result[key] = t.kind, t.level, t.image, t.channel, t.location + location
        return result

    written = sums(threads)
    assert written == sums(1)
    code = NORMALIZERS.index(normalizer)
    _, runs, segments = host.loss_plan_sizes(levels, mode, channel_major, threads, code)
    assert Counter(over_segments for over_segments, _ in written) == +Counter({False: runs, True: segments})


@given(levels=LEVELS, channel_major=st.booleans(), threads=THREADS)
def test_no_task_waits_for_a_later_one(levels, channel_major, threads):
    tasks = tasks_of(levels, "mask_first", channel_major, threads)
    last_mask = {t.level: i for i, t in enumerate(tasks) if t.kind == "mask"}
    assert all(t.kind == "mask" or last_mask[t.level] < i for i, t in enumerate(tasks))


@given(levels=LEVELS, channel_major=st.booleans(), threads=THREADS)
def test_all_masks_come_first_where_the_normalizer_spans_the_levels(levels, channel_major, threads):
    tasks = tasks_of(levels, "mask_first", channel_major, threads, "mask_all_levels")
    kinds = [t.kind for t in tasks]
    assert kinds == sorted(kinds, key=("mask", "head", "imitation").index)
    heads = [(t.level, t.image, t.location) for t in tasks if t.kind == "head"]
    others = [t for t in tasks_of(levels, "mask_first", channel_major, threads) if t.kind == "head"]
    assert set(heads) == {(t.level, t.image, t.location) for t in others}


@pytest.mark.parametrize("channel_major", [False, True])
def test_heads_begin_where_the_last_mask_ended_if_the_normalizer_spans_the_levels(channel_major):
    tasks = tasks_of(RETINANET, "mask_first", channel_major, 2, "mask_all_levels")
    masks, heads = ([t for t in tasks if t.kind == kind] for kind in ("mask", "head"))
    assert list(dict.fromkeys(t.level for t in masks)) == [4, 3, 2, 1, 0]
    assert list(dict.fromkeys(t.level for t in heads)) == [0, 1, 2, 3, 4]
    locations = [t.location for t in heads if t.level == 0]
    assert locations == sorted(locations, reverse=True)


@pytest.mark.parametrize("channel_major", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 8, 64, 192])
def test_other_threads_have_tasks_until_a_mask_is_done(threads, channel_major):
    """While a level's last mask task runs, all other threads can take one that does not wait for it."""
    tasks = tasks_of(RETINANET, "mask_first", channel_major, threads)
    masks = [i for i, t in enumerate(tasks) if t.kind == "mask"]
    for level in range(len(RETINANET)):
        last = max(i for i in masks if tasks[i].level == level)
        head = min(i for i, t in enumerate(tasks) if t.kind == "head" and t.level == level)
        if not channel_major or threads > 8:
            assert head - last >= threads or head > masks[-1]
    if threads == 1 or (channel_major and threads <= 8):  # the mask pass leaves T in the cache for the head
        order = list(dict.fromkeys((t.level, t.kind) for t in tasks))
        assert order[:4] == [(4, "mask"), (4, "head"), (3, "mask"), (3, "head")]
    if threads >= 64:
        assert masks == list(range(len(masks)))


@pytest.mark.parametrize("threads", [1, 2, 8, 64, 192])
@pytest.mark.parametrize("count", [0, 1, 5, 20_000])
def test_every_task_runs_once(count, threads):
    assert host.run_tasks(count, threads) == [1] * count


@pytest.mark.parametrize("threads", [1, 2, 8, 64, 192])
def test_tasks_that_wait_see_what_they_wait_for(threads):
    for tasks in (1, 3, 100):
        assert host.run_latched_tasks(50, tasks, threads) == 0
