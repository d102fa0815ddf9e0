"""The tables of figures in the README, made of the results that are kept beside the code.

Those of a GPU are there once somebody who has one has put them there.

python -m nnx.benchmarks.readme      writes them anew between their marks
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nnx.benchmarks import gpu_report, suite
from nnx.benchmarks.figures import time_text

ROOT = Path(__file__).parents[1]
FILE = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "bench.json"
GPU_RESULTS = RESULTS.with_name("gpu.json")
COLUMNS = {
    "textbook": "textbook loops", "loops": "`loops`", "numpy": "`numpy`", "numba": "`numba`",
    "numpy-by-hand": "NumPy by hand", "torch": "torch", "jax": "jax.jit",
}  # fmt: skip
ROWS = {
    "784-16, batch 32, forward": "dense layer 784-16, batch 32",
    "784-16, batch 32, backward": "its gradients",
    "relu 100000": "relu of 100,000",
    "tanh gradient 100000": "gradient of tanh, 100,000",
    "softmax 1000x100": "softmax of 1000 x 100",
    "784-16-16-10/32/sgd": "training step 784-16-16-10, batch 32",
    "4-20-10-3/16/adam": "training step 4-20-10-3, batch 16",
}
COSTS = {
    ("step of 784-16-16-10/32", "numpy"): (
        "eager SGD step of 784-16-16-10, batch 32, over NumPy by hand", "at most 2.2"),
    ("step of 784-16-16-10/1", "numpy"): ("the same, batch 1", "at most 3"),
    ("import in a new process", "numpy"): ("`import nnx`, over `import numpy`", ""),
    ("784-16-16-10/32/sgd, cold", "numba"): (
        "first call of a compiled 784-16-16-10 step, after imports", "at most 1.5 s"),
    ("784-16-16-10/32/sgd, warm", "numba"): ("the same from the disk cache", "at most 0.35 s"),
}  # fmt: skip

Results = dict[str, Any]


def _cases(results: Results) -> dict[str, Results]:
    return {case["name"]: case for case in results["cases"]}


def _cell(found: Results | None) -> str:
    if found is None:
        return ""
    return time_text(found["us"]["median"]) if "us" in found else found["status"]


def compared(results: Results) -> str:
    """Return the table of what loops, vectors and compilation give."""
    cases = _cases(results)
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, title in ROWS.items():
        found = cases[name]["contestants"]
        lines.append(f"| {title} | " + " | ".join(_cell(found.get(c)) for c in COLUMNS) + " |")
    return "\n".join(lines)


def costs(results: Results) -> str:
    """Return the table of what nnx costs beside the arithmetic."""
    cases = _cases(results)
    lines = ["| figure | median | quartiles | target | |", "|---|---|---|---|---|"]
    for (name, contestant), (title, target) in COSTS.items():
        found = cases[name]["contestants"]
        over = found[contestant]["over"]
        if over["reference"] == contestant:  # a time by itself
            median, (low, high) = (
                found[contestant]["us"]["median"],
                found[contestant]["us"]["quartiles"],
            )
            texts = [time_text(x) for x in (median, low, high)]
            shown = ""
        else:
            median, (low, high) = over["median"], over["quartiles"]
            texts = [f"{x:.2f}" for x in (median, low, high)]
            shown = f"{_cell(found[contestant])} against {_cell(found[over['reference']])}"
        lines.append(f"| {title} | {texts[0]} | {texts[1]} to {texts[2]} | {target} | {shown} |")
    return "\n".join(lines)


def where(results: Results) -> str:
    """Return the machine, the versions and the date."""
    machine = results["machine"]
    versions = machine["versions"]
    named = ", ".join(
        f"{name} {versions[name]}"
        for name in ("numpy", "numba", "torch", "jax")
        if name in versions
    )
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, {named}, "
        f"{machine['date']}"
    )


def of_gpu(path: Path = GPU_RESULTS) -> Results | None:
    """Return the results of a run on a GPU; None where nobody has kept any."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def filled(text: str, results: Results, gpu: Results | None = None) -> str:
    """Return a README with what stands between its marks made anew."""
    parts = {
        "compared": compared(results), "costs": costs(results), "where": where(results),
        "gpu": gpu_report.short(gpu),
    }  # fmt: skip
    for name, content in parts.items():
        space = "\n\n" if name != "where" else "\n"
        text, n = re.subn(
            rf"(<!-- {name} -->).*?(<!-- /{name} -->)",
            lambda m, c=content, s=space: f"{m[1]}{s}{c}{s}{m[2]}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
        assert n == 1, f"the README has {n} places for {name}"
    return text


def main() -> None:
    """Write the README."""
    text = filled(FILE.read_text(encoding="utf-8"), suite.read(RESULTS), of_gpu())
    FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
