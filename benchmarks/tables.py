"""Markdown tables of a run. Under each of them a line says where its numbers come from."""

from benchmarks.providers import FUSED
from benchmarks.results import Race, Record, Run, providers_in
from benchmarks.workloads import KL_OPS, Case

TEACHERS = ("prepared", "as built")  # of a training step, as its benchmark names them


def table(heads: list[str], rows: list[list[str]], source: str) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", f"*{source}*", ""])


def name(case: Case) -> str:
    """A case in words, without the operation."""
    mode = {"both": "forward + backward"}.get(case.mode, case.mode)
    return f"{case.workload}, {_tensors(case)}, {mode}"


def name_with_op(case: Case) -> str:
    return f"{case.op}: {name(case)}"


def _tensors(case: Case) -> str:
    layout = "NCHW" if case.layout == "nchw" else "channels_last"
    return f"B={case.batch}, {case.dtype}, {layout}"


def time(seconds: float) -> str:
    """Three significant digits, in ms or, below 0.1 ms, in us."""
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.3g} us"


def megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f}"


def headline(run: Run) -> str:
    """The README's table: races of the whole loss with gradients on RetinaNet at 800x1344."""
    wanted = ("loss", "retinanet-800x1344")
    races = [race for race in _headline_races(run) if (race.case.op, race.case.workload) == wanted]
    return _headline(run, races, "loss and gradients, RetinaNet 800x1344")


def kl_headline(run: Run) -> str:
    """The table of docs/performance.md: races of the softmax losses with gradients, in NCHW."""
    races = [race for race in _headline_races(run) if race.case.op in KL_OPS and race.case.layout == "nchw"]
    return _headline(run, races, "softmax loss and gradients")


def _headline_races(run: Run) -> list[Race]:
    return [race for race in run.races if race.case.mode == "both" and race.allocator == "default"]


def _headline(run: Run, races: list[Race], what: str) -> str:
    heads = [
        what, "ours", "official eager", "best eager",
        "best torch.compile", "of copy bandwidth", "memory added: ours / official",
    ]  # fmt: skip
    return table(heads, [_headline_row(run, race) for race in races], run.source) if races else ""


def _headline_row(run: Run, race: Race) -> list[str]:
    case, best = race.case, race.best_compiled
    kind = f", {case.op} of {case.workload}" if case.op in KL_OPS else ""
    memory = {p: r.extra["peak_bytes"] for p, r in run.cases(lambda c: c == case).get(case, {}).items()}
    return [
        f"{run.machine['name']}{kind}, {_tensors(case)}",
        f"**{time(race.seconds(race.ours))}** ({race.ours})",
        *(
            f"{race.speedup(each):.1f}x slower" if each in race.turns else "-"
            for each in ("official", "best-eager", best)
        ),
        f"{race.gbps / race.copy_gbps:.0%}",
        f"{megabytes(memory.get(race.ours))} / {megabytes(memory.get('official'))} MB" if memory else "-",
    ]


def races(run: Run) -> str:
    """The races of the whole loss: each row a case on which the providers took turns."""
    return _races(run, "whole loss", [race for race in run.races if race.case.op not in KL_OPS])


def kl_races(run: Run) -> str:
    """The races of the softmax losses."""
    return _races(run, "softmax loss", [race for race in run.races if race.case.op in KL_OPS])


def _races(run: Run, what: str, races: list[Race]) -> str:
    if not races:
        return ""
    names = providers_in(race.turns for race in races)
    warm = any(race.allocator == "warm" for race in races)
    heads = [what, *(["malloc"] if warm else []), *names, "GB/s", "copy GB/s", "share"]
    kinds = [name_with_op(race.case) if race.case.op in KL_OPS else name(race.case) for race in races]
    rows = []
    for race, kind in zip(races, kinds, strict=True):
        cells = [_turn(race, each) for each in names]
        share = f"{race.gbps / race.copy_gbps:.0%}"
        numbers = [*cells, f"{race.gbps:.1f}", f"{race.copy_gbps:.1f}", share]
        rows.append([kind, *([race.allocator] if warm else []), *numbers])
    notes = [
        f"- No {each} on {kind}: {reason}"
        for race, kind in zip(races, kinds, strict=True) for each, reason in race.missing.items()
    ]  # fmt: skip
    return "\n".join([table(heads, rows, run.source), *notes, *([""] if notes else [])])


def _turn(race: Race, provider: str) -> str:
    if provider not in race.turns:
        return "-"
    seconds = time(race.seconds(provider))
    return f"**{seconds}**" if provider == race.ours else f"{seconds} ({race.speedup(provider):.1f}x)"


def singles(run: Run, op: str) -> str:
    """Each provider on its own, on an operation's cases: time, and memory added at the peak."""
    cases = run.cases(lambda case: case.op == op)
    names = providers_in(cases.values())
    rows = [
        [name(case), *(_time_and_memory(records.get(p)) for p in names), megabytes(case.result_bytes)]
        for case, records in cases.items()
    ]
    return table([op, *names, "results, MB"], rows, run.source)


def _time_and_memory(record: Record | None) -> str:
    if record is None:
        return "-"
    peak = record.extra["peak_bytes"]
    return time(record.seconds) + ("" if peak is None else f", {megabytes(peak)} MB")


def bandwidth(run: Run) -> str:
    """The share of this machine's memory bandwidth that the fused backends reach."""
    rows = [
        [name_with_op(r.case), r.provider, megabytes(r.case.bytes_moved), f"{r.extra['gbps']:.1f}",
         f"{r.extra['copy_share']:.0%}"]
        for r in run.singles if r.provider in FUSED and "gbps" in r.extra and r.case.shapes.cold
    ]  # fmt: skip
    return table(["", "backend", "MB moved", "GB/s", "of copy"], rows, run.source)


def gpu_details(run: Run) -> str:
    """Launches, host time and wall time of a run on a GPU, and device time if the host is not ahead."""
    heads = ["", "provider", "launches", "host us", "wall ms", "host not ahead, ms", "device ms"]
    rows = [
        [name_with_op(r.case), r.provider, str(r.extra["launches"] or "-"),
         f"{r.extra['host_us']:.0f}", f"{r.extra['wall_ms']:.3g}", f"{r.extra['host_behind_ms']:.3g}",
         f"{r.seconds * 1e3:.3g}"]
        for r in run.singles if "launches" in r.extra
    ]  # fmt: skip
    return table(heads, rows, run.source) if rows else ""


def gpu_kernels(run: Run) -> str:
    """The launches of a profiled call of each fused backend, with their device times."""
    rows = [
        [name_with_op(r.case), r.provider, "; ".join(f"{k['name']} {k['us']:.0f}" for k in kernels)]
        for r in run.singles if (kernels := r.extra.get("kernels"))
    ]  # fmt: skip
    return table(["", "provider", "launches, us"], rows, run.source) if rows else ""


def accuracy(run: Run) -> str:
    """The largest relative error against float64 of each provider, over the cases it was timed on."""
    worst: dict[str, dict[str, float]] = {}
    for record in run.singles:
        errors = worst.setdefault(record.provider, {})
        for what, error in record.extra["errors"].items():
            key = f"{what}, {record.case.dtype}"
            errors[key] = max(errors.get(key, 0.0), error)
    keys = sorted({key for errors in worst.values() for key in errors})
    rows = [[p, *(f"{worst[p][key]:.1e}" if key in worst[p] else "-" for key in keys)]
            for p in providers_in([worst])]  # fmt: skip
    return table(["largest error", *keys], rows, run.source)


def steps(run: Run) -> str:
    """Whole training steps, and the ways for which the GPU's memory was too small."""
    rows = []
    for extra in run.steps:
        ours = extra["turns"]["ours"]["median"]
        for way, turn in extra["turns"].items():
            ratio = f"{turn['median'] / ours:.2f}x"
            rows.append(
                [extra["step"], way, time(turn["median"]), ratio, megabytes(extra["peak_bytes"][way])]
            )
        for way, batch in extra.get("largest_batch", {}).items():
            rows.append([extra["step"], way, "out of memory", f"largest batch {batch}", "-"])
    return (
        table(["training step", "way", "time", "of ours", "peak MB added"], rows, run.source) if rows else ""
    )


def step_parts(run: Run) -> str:
    """The parts of our training steps."""
    rows = []
    for extra in run.steps:
        parts = extra.get("parts", {})
        whole = sum(part["median"] for part in parts.values())
        for name, part in parts.items():
            share = f"{part['median'] / whole:.1%}"
            rows.append([extra["step"], name, time(part["median"]), share, megabytes(part["peak_bytes"])])
    return table(["our step", "part", "time", "share", "peak MB added"], rows, run.source) if rows else ""


def distillation(run: Run) -> str:
    """What the distillation adds to a step without a teacher, its parts, and the teacher alone."""
    rows = []
    for extra in run.steps:
        turns, parts, alone = extra["turns"], extra.get("parts"), extra.get("teacher_alone", {})
        if not parts or "no teacher" not in turns:
            continue
        added = turns["ours"]["median"] - turns["no teacher"]["median"]
        known = [parts[part]["median"] for part in ("teacher", "adapters", "loss")]
        cells = [f"{seconds * 1e3:.1f}" for seconds in (added, *known, added - sum(known))]
        cells += [_compared(added, alone.get(teacher)) for teacher in TEACHERS]
        rows.append([extra["step"], *cells])
    heads = ["distillation, ms", "ours - no teacher", "teacher", "adapters", "loss", "rest"]
    heads += [f"teacher alone, {teacher}" for teacher in TEACHERS]
    return table(heads, rows, run.source) if rows else ""


def _compared(added: float, alone: dict | None) -> str:
    return f"{alone['median'] * 1e3:.1f} ({added / alone['median']:.2f}x)" if alone else "not measured"
