"""The limits of a run on a GPU, its report, and the short table of the README."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nnx.benchmarks import figures, gpu_elementwise, gpu_steps
from nnx.benchmarks.figures import plain, three_figures, time_text
from nnx.benchmarks.train import Verdict, verdict

Results = dict[str, Any]
Row = dict[str, Any]

TIMES_NNX = {"torch-cuda": 5.0, "torch-compile-cuda": 1.0, "jax-cuda": 1.0}
"""How many times nnx's small step a peer's has to take at least."""
OF_PRODUCTS, OF_COPY = 0.9, 0.85
FIRST_STEP_S = 5.0
NAMES = {
    gpu_steps.OURS: "nnx", gpu_steps.FIT: "nnx `fit`", gpu_steps.PRODUCTS: "products alone",
    "torch-cuda": "torch", "torch-compile-cuda": "torch.compile", "jax-cuda": "jax.jit",
    gpu_elementwise.KERNEL: "nnx's kernel", gpu_elementwise.COPY: "copy",
}  # fmt: skip
TESTED = ("tests", "slow tests")
"""The stages of tests."""
CASES = {"steps": gpu_steps.SMALL, "wide": gpu_steps.LARGE, "elementwise": gpu_elementwise.CASES}
"""Of the stages that compare."""
NOT_MEASURED = "not yet measured on a GPU"


def rows(results: Results, stage: str, kind: str) -> list[Row]:
    """Return the rows of a kind of a stage."""
    found = results["stages"].get(stage, {}).get("rows", [])
    return [row for row in found if row["kind"] == kind]


# Limits


def limits(results: Results) -> list[Verdict]:
    """Return which limits were met, of all that was measured."""
    return [
        *_faults(results), *_steps(results), *_wide(results), *_elementwise(results),
        *_first_step(results),
    ]  # fmt: skip


def is_fault(row: Row) -> bool:
    """Return whether a row tells of something wrong or of tests cut, not only of slow figures."""
    if row["kind"] == "tests":
        return bool(row["problems"]) or row["exit"] != 0
    if row["kind"] == "sanitizer":
        return row["status"] == "failed" or row.get("errors", 0) > 0
    if row["kind"] == "case":
        return any(c["status"] in ("wrong", "crashed") for c in row["contestants"].values())
    return False


def _faults(results: Results) -> Iterator[Verdict]:
    for stage in TESTED:
        for row in rows(results, stage, "tests"):
            yield verdict(f"{stage} that fail on the GPU", len(row["problems"]), "at most", 0)
    for row in rows(results, "sanitizer", "sanitizer"):
        if row["status"] == "ok":
            yield verdict(f"{row['tool']}: errors", row["errors"], "at most", 0)


def _over(case: Row, name: str, least: float, figure: str) -> Iterator[Verdict]:
    """Yield the verdict of a contestant's time over nnx's, with its quartiles."""
    over = case["contestants"].get(name, {}).get("over")
    if over and over["reference"] != name:
        found = verdict(f"{case['name']}: {figure}", over["median"], "at least", least)
        yield {**found, "quartiles": over["quartiles"]}


def _steps(results: Results) -> Iterator[Verdict]:
    for case in rows(results, "steps", "case"):
        for name, least in TIMES_NNX.items():
            yield from _over(case, name, least, f"{NAMES[name]} over nnx")


def _wide(results: Results) -> Iterator[Verdict]:
    for case in rows(results, "wide", "case"):
        yield from _over(case, gpu_steps.PRODUCTS, OF_PRODUCTS, "products alone over nnx")
        yield from _over(case, "torch-compile-cuda", 1.0, "torch.compile over nnx")


def _elementwise(results: Results) -> Iterator[Verdict]:
    for case in rows(results, "elementwise", "case"):
        yield from _over(case, gpu_elementwise.COPY, OF_COPY, "copy over the kernel")


def _first_step(results: Results) -> Iterator[Verdict]:
    for row in rows(results, "first step", "first step"):
        found = verdict(f"first step of {row['command']}, s", row["seconds"]["median"], "at most",
                        FIRST_STEP_S)  # fmt: skip
        yield {**found, "quartiles": row["seconds"]["quartiles"]}


# The report, as Markdown


def text(results: Results) -> str:
    """Return the report."""
    parts = ["# nnx on a GPU", _machine(results), _stages(results), _limits(results),
             _rates(results)]  # fmt: skip
    for stage, title in (("steps", "Small training steps"), ("wide", "A wide network"),
                         ("elementwise", "Elementwise kernels")):  # fmt: skip
        parts.append(_cases(rows(results, stage, "case"), title))
    parts += [_first(results), _faulty(results), METHOD]
    return "\n\n".join(part for part in parts if part) + "\n"


METHOD = """\
## Method

Each contestant is a process of its own; its first losses are held to float64 before it is timed;
they take turns at blocks of calls, after warm-up calls, in an order that rotates. Figures are
medians over the turns, with quartiles; ~ marks those whose quartiles lie far apart. Times are of
the wall clock, from an idle GPU to an idle GPU; beside them stand those of the GPU's own events,
where a library gives them. "loss read": the loss of each step is a Python number before the next;
"queued": steps are started one after the other, and waited for once a block. Predicted is the sum
of FLOPs at the rate of large products, bytes at that of a copy of as many, and launches at that of
a kernel that does nothing: by nnx's own program, each array moved once per kernel. An epilogue is
what cuBLASLt does with a product, and no kernel has to; the products are told in their order."""


def cells(*values: object) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(plain(value).replace("|", "\\|") for value in values) + " |"


def table(header: tuple[str, ...], lines: list[str]) -> str:
    """Return a table."""
    return "\n".join([cells(*header), "|---" * len(header) + "|", *lines])


def where(results: Results) -> str:
    """Return the GPU, the versions and the date in one line."""
    gpu, about = results["gpu"], results["machine"]
    wanted = ("torch", "jax")
    versions = {n: v for n, v in about["versions"].items() if n in wanted or "cupy" in n}
    driver = f", driver {gpu['driver']}" if gpu["driver"] else ""
    return plain(
        f"{gpu['name']}{driver}, CUDA {gpu['cuda_runtime']}, Python {about['python']}, "
        + "".join(f"{name} {found}, " for name, found in versions.items())
        + about["date"]
    )


def _machine(results: Results) -> str:
    gpu, about = results["gpu"], results["machine"]
    facts = {
        "GPU": f"{gpu['name']}, compute capability {gpu['capability']}, {gpu['multiprocessors']} "
               f"multiprocessors, {figures.size_text(gpu['memory_bytes'])}",
        "Driver": f"{gpu['driver'] or 'not known'}, goes up to CUDA {gpu['cuda_driver']}",
        "CUDA": f"{gpu['cuda_runtime']}, cuBLASLt {gpu['cublaslt'] or 'not known'}",
        "Processor": f"{about['cpu']}, {about['cores']} cores",
        "System": about["system"],
        "Versions": f"Python {about['python']}, "
                    + ", ".join(f"{name} {v}" for name, v in about["versions"].items()),
        "Commit": about["commit"] or "not known",
        "Date": about["date"] + ", in short" * results["quick"],
    }  # fmt: skip
    return table(("", ""), [cells(name, fact) for name, fact in facts.items()])


def _stages(results: Results) -> str:
    lines = []
    for name, stage in results["stages"].items():
        took = f"{stage['seconds']:.0f} of {stage['budget_s']:.0f} s"
        left_out = sum(row["kind"] == "left out" for row in stage["rows"])
        told = stage["reason"] or (f"{left_out} left out" if left_out else "")
        lines.append(cells(name, stage["status"], took, told, _state(stage)))
    header = ("stage", "status", "time", "", "GPU after it")
    return "## Stages\n\n" + table(header, lines)


def _state(stage: Results) -> str:
    after = stage["after"]
    if not after:
        return "not known"
    return f"{after['sm_mhz']:.0f} MHz, {after['temperature_c']:.0f} °C, {after['power_w']:.0f} W"


def _limits(results: Results) -> str:
    if not results["limits"]:
        return "## Limits\n\nNothing was measured that has a limit."
    lines = []
    for v in results["limits"]:
        spread = " to ".join(map(three_figures, v["quartiles"])) if "quartiles" in v else ""
        word = "met" if v["met"] else "**missed**"
        lines.append(cells(v["figure"], three_figures(v["measured"]), spread,
                           f"{v['rule']} {v['limit']:g}", word))  # fmt: skip
    return "## Limits\n\n" + table(("figure", "measured", "quartiles", "limit", ""), lines)


def _rates(results: Results) -> str:
    for row in rows(results, "rates", "rates"):
        products = ", ".join(
            f"{kind} {rate / 1e3:.0f} TFLOP/s" for kind, rate in row["products"].items()
        )
        memory = ", ".join(
            f"{gbs:.0f} GB/s over {figures.size_text(size)}" for size, gbs in row["memory"]
        )
        launch = time_text(row["launch_us"])
        return f"## Rates\n\nProducts: {products}. Copies: {memory}. An empty kernel: {launch}."
    return ""


def _cases(cases: list[Row], title: str) -> str:
    if not cases:
        return ""
    parts = [f"## {title}"]
    for case in cases:
        lines = [_contestant(name, found) for name, found in case["contestants"].items()]
        header = ("contestant", "time", "quartiles", "GPU's events", "over nnx",
                  "of the predicted speed", "setting")  # fmt: skip
        parts += [f"### {plain(case['name'])}", _predicted(case), table(header, lines)]
    return "\n\n".join(parts)


def _predicted(case: Row) -> str:
    launches = f", {case['launches']} launches" if "launches" in case else ""
    time_ = f": {time_text(case['floor_us'])}" if "floor_us" in case else ""
    epilogues = ", ".join(case.get("epilogues", []))
    return (
        f"Predicted: {case['flops'] / 1e6:,.1f} MFLOP, {case['bytes'] / 1e6:,.1f} MB{launches}"
        f"{time_}." + f" Epilogues of its products: {epilogues}." * bool(epilogues)
    )


def _contestant(name: str, found: Row) -> str:
    shown = NAMES.get(name, name)
    if "us" not in found:
        return cells(shown, found["status"], found["reason"], "", "", "", "")
    over, device = found.get("over"), found.get("device_us")
    left_out = "".join(f"; {name} failed: {why}" for name, why in found.get("left_out", {}).items())
    return cells(
        shown,
        figures.wide_mark(found["us"]) + time_text(found["us"]["median"]),
        " to ".join(map(time_text, found["us"]["quartiles"])),
        time_text(device["median"]) if device else "",
        f"{three_figures(over['median'])}x" if over else "",
        figures.share_text(found["floor_share"]) if "floor_share" in found else "",
        (found["setting"] if found["setting"] != name else "") + left_out,
    )


def _first(results: Results) -> str:
    for row in rows(results, "first step", "first step"):
        low, high = row["seconds"]["quartiles"]
        return (
            f"## The first step\n\n`{plain(row['command'])}` from the start of its process to the "
            f"end of its first step: {row['seconds']['median']:.2f} s (quartiles {low:.2f} to "
            f"{high:.2f}, {row['runs']} processes; the one before them {row['first_s']:.2f} s)."
        )
    return ""


def _faulty(results: Results) -> str:
    """Return what was left out, what failed, and how many tests and checks there were."""
    lines = []
    for name, stage in results["stages"].items():
        for row in stage["rows"]:
            if row["kind"] == "left out":
                lines.append(f"{name}: {row['what']}: {row['reason']}")
            elif row["kind"] == "tests":
                lines.append(f"{_counted(name, row)} ({row['log']})")
                lines += [f"failed: {problem}" for problem in row["problems"]]
            elif row["kind"] == "sanitizer":
                said = f"{row['errors']} errors" if "errors" in row else row["status"]
                why = f": {row['reason']}" if row.get("reason") else ""
                lines.append(f"compute-sanitizer {row['tool']}: {said}{why} ({row['log']})")
    return "## Tests, checks, what was left out\n\n" + "\n".join(
        f"- {plain(line)}" for line in lines
    ) if lines else ""  # fmt: skip


def _counted(stage: str, row: Row) -> str:
    cut = ", cut before the last" if row["exit"] is None else ""
    left = f", {row['not_run']} not run" if row["not_run"] else ""
    return (
        f"{stage}: {row['passed']} passed, {row['skipped']} skipped, "
        f"{len(row['problems'])} failed{cut}{left}"
    )


def summary(results: Results) -> str:
    """Return the limits, how many tests there were, and what was left out, for a terminal."""
    lines = [f"{v['figure']}: {three_figures(v['measured'])}, {v['rule']} {v['limit']:g}: "
             + ("met" if v["met"] else "MISSED") for v in results["limits"]]  # fmt: skip
    lines = lines or ["Nothing was measured that has a limit."]
    lines += [_counted(stage, row) for stage in TESTED for row in rows(results, stage, "tests")]
    lines += [_left_out(results, stage) for stage in CASES if stage in results["stages"]]
    return "\n".join(filter(None, lines))


def _left_out(results: Results, stage: str) -> str:
    """Return how many cases of a stage were not measured, and how many contestants were cut."""
    planned = sum(case.quick or not results["quick"] for case in CASES[stage])
    found = rows(results, stage, "case")
    n_cut = sum(c["status"] == "cut" for case in found for c in case["contestants"].values())
    parts = [f"{planned - len(found)} of {planned} cases left out"] * (len(found) < planned)
    parts += [f"contestants cut: {n_cut}"] * bool(n_cut)
    return f"{stage}: {', '.join(parts)}" if parts else ""


# The README


def short(results: Results | None) -> str:
    """Return the table of the README, or that there is none yet."""
    if results is None:
        return NOT_MEASURED
    names = (gpu_steps.OURS, gpu_steps.FIT, *gpu_steps.PEERS, gpu_steps.PRODUCTS)
    chosen = [case for case in rows(results, "steps", "case") if "/sgd, queued" in case["name"]]
    lines = [
        cells(case["name"], *(_short_cell(case["contestants"].get(name)) for name in names))
        for case in [*chosen, *rows(results, "wide", "case")]
    ]
    header = ("training step", *(NAMES[name] for name in names))
    return table(header, lines) + f"\n\nMeasured on {where(results)}."


def _short_cell(found: Row | None) -> str:
    if found is None:
        return ""
    return time_text(found["us"]["median"]) if "us" in found else found["status"]
