"""The page of a run: one HTML file that needs nothing else; pictures, then tables with all figures.

Whatever comes from the results passes through `escape` or `cell` on its way into the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

from nnx.benchmarks import figures
from nnx.benchmarks.figures import Results, plain, three_figures, time_text
from nnx.benchmarks.pictures import Picture

METHOD = (
    "Each contestant runs in a process of its own, from the same data and weights, and is timed "
    "only after its results have been held to plain NumPy in float64.",
    "In each round every contestant runs one block of calls while the others sleep, and the order "
    "rotates from round to round, so that a busy machine slows all alike.",
    "A figure is the median over the rounds with its quartiles; a ratio is taken within each "
    "round, so above 1 means slower than the reference.",
    "Where a library has several usual settings the fastest is shown; compilation, imports and "
    "first calls are outside of the blocks unless they are what is measured.",
    "What was not run, is not on this machine, computed something else or crashed is named as "
    "such with its reason, and is never guessed from other figures.",
)
COLUMNS = ("median", "quartiles", "best", "over the reference", "quartiles", "of the floor's speed",
           "GFLOP/s", "turns x calls", "first call", "setting")  # fmt: skip


def html(results: Results, pictures: Iterable[Picture]) -> str:
    """Return the page."""
    drawn = {picture.name: picture for picture in pictures}
    sections = [_machine(results), _method(results)]
    sections += [_picture(results, picture) for picture in drawn.values()]
    if "steps" in drawn:
        sections.append(_steps_table(figures.raced(results)))
    sections += [_suite(name, cases) for name, cases in figures.suites_of(results).items()]
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    title = f"nnx benchmarks, {figures.machine_text(results)}"
    links = {"machine": "Machine", "method": "Method"}
    links |= {f"picture-{name}": picture.title for name, picture in drawn.items()}
    links |= {f"suite-{plain(n)}": figures.TITLES.get(n, n) for n in figures.suites_of(results)}
    nav = "\n".join(
        f'<li><a href="#{escape(key)}">{cell(name)}</a></li>' for key, name in links.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{cell(title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>nnx benchmarks</h1>
<p>{cell(figures.machine_text(results))}</p>
<nav><ul>
{nav}
</ul></nav>
</header>
<main>
{chr(10).join(sections)}
</main>
</body>
</html>
"""


def cell(value: object) -> str:
    """Return a value as text of the page."""
    return escape(plain(value))


def _section(key: str, title: str, body: str) -> str:
    name = escape(plain(key))
    heading = f'<h2 id="{name}">{cell(title)}</h2>'
    return f'<section aria-labelledby="{name}">\n{heading}\n{body}\n</section>'


def _table(header: str, bodies: Iterable[str], label: str) -> str:
    """Return a table that scrolls by itself where the page is narrower."""
    rows = "\n".join(f"<tbody>\n{body}\n</tbody>" for body in bodies)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{cell(label)}"><table>\n'
        f"<thead><tr>{header}</tr></thead>\n{rows}\n</table></div>"
    )


def _machine(results: Results) -> str:
    machine, settings = results["machine"], results["settings"]
    load = machine["load"]
    facts = {
        "Processor": machine["cpu"],
        "Cores": machine["cores"],
        "GPU": ", ".join(machine["gpu"]) or "none that nnx can use",
        "System": machine["system"],
        "Python": machine["python"],
        "Packages": ", ".join(f"{name} {v}" for name, v in machine["versions"].items()),
        "Threads": ", ".join(f"{name}: {v}" for name, v in machine["threads"].items()),
        "Load before": ", ".join(map(str, load)) if load else "not known",
        "Commit": machine["commit"] or "not known",
        "Date": machine["date"],
        "Rates": figures.rates_text(results),
        "Settings": ", ".join(
            f"{name} {v}" for name, v in settings.items() if not isinstance(v, list)
        ),
    }
    body = "\n".join(f"<dt>{name}</dt><dd>{cell(value)}</dd>" for name, value in facts.items())
    absent = "".join(
        f"<li>{cell(name)}: {cell(reason)}</li>" for name, reason in results["unavailable"].items()
    )
    missing = f"\n<p>Not on this machine:</p>\n<ul>{absent}</ul>" if absent else ""
    return _section("machine", "Machine", f"<dl>\n{body}\n</dl>{missing}")


def _method(results: Results) -> str:
    notes = "".join(f"\n<p><strong>{cell(n)}</strong></p>" for n in figures.runs_text(results))
    mark = (
        f"\n<p>~ marks a figure whose quartiles lie further apart than {figures.WIDE:.0%} of it: "
        "it is uncertain.</p>"
    )
    return _section("method", "Method", f"<p>{cell(' '.join(METHOD))}</p>{mark}{notes}")


def _picture(results: Results, picture: Picture) -> str:
    said = ""
    if picture.name == "crossover":
        wins = figures.wins_text(figures.crossover(results))
        said = "<ul>" + "".join(f"<li>{cell(sentence)}</li>" for sentence in wins) + "</ul>\n"
    return _section(
        f"picture-{picture.name}", picture.title,
        f"{said}<figure>\n<figcaption>{cell(picture.description)}</figcaption>\n"
        f'<div class="wide" role="region" tabindex="0" aria-label="{cell(picture.title)}">'
        f"{picture.svg}</div>\n</figure>",
    )  # fmt: skip


# Training steps beside the best peer


def _steps_table(cases: list[Results]) -> str:
    names = figures.names_of(cases)
    header = "".join(f'<th scope="col" class="text">{name}</th>' for name in ("case", "best peer"))
    header += "".join(f'<th scope="col">{cell(name)}</th>' for name in names)
    bodies = []
    for case in cases:
        ratios, peer = figures.to_best_peer(case), figures.best_peer(case)
        cells = [_ratio_to_peer(case["contestants"].get(n), ratios.get(n)) for n in names]
        bodies.append(
            f'<tr><th scope="row" class="case">{cell(case["name"])}</th>'
            f'<td class="name">{cell(peer)}</td>{"".join(cells)}</tr>'
        )
    label = "Times of training steps over the best peer's, with quartiles"
    note = "Times over the best peer's median: the median and the quartiles. Below 1 is faster."
    return f"<p>{note}</p>\n{_table(header, bodies, label)}"


def _ratio_to_peer(found: Results | None, ratio: Results | None) -> str:
    if found is None:
        return "<td></td>"
    if ratio is None:
        return f'<td class="{_kind(found)}">{cell(found["status"])}</td>'
    return (
        f"<td>{figures.wide_mark(ratio)}{three_figures(ratio['median'])} "
        f'<br><span class="quartiles">{_range(ratio, three_figures)}</span></td>'
    )


# Suites


def _suite(name: str, cases: list[Results]) -> str:
    """Return the table of a suite, without the columns that would be empty."""
    title = figures.TITLES.get(name, name)
    rows = [_figures(case, *pair) for case in cases for pair in figures.timed(case).items()]
    used = [i for i in range(len(COLUMNS)) if any(row[i] for row in rows)]
    names = [("case", "text"), ("contestant", "text"), *((COLUMNS[i], "") for i in used)]
    header = "".join(f'<th scope="col" class="{kind}">{column}</th>' for column, kind in names)
    table = _table(header, (_case(case, used) for case in cases), title)
    return _section(f"suite-{name}", title, _floor_note(cases) + table)


def _floor_note(cases: list[Results]) -> str:
    if not any("floor_us" in case for case in cases):
        return ""
    return ("<p>The floor of a case is the time that its FLOPs, as products on all threads, and "
            "its bytes, each moved once, take one after another at this machine's rates.</p>\n"
            )  # fmt: skip


def _case(case: Results, used: list[int]) -> str:
    """Return the rows of a case, one a contestant."""
    floor = f"<br>floor {time_text(case['floor_us'])}" if "floor_us" in case else ""
    n_rows = max(len(case["contestants"]), 1)
    head = (
        f'<th scope="rowgroup" class="case" rowspan="{n_rows}">{cell(case["name"])}'
        f"<small><br>reference {cell(case['reference'])}{floor}</small></th>"
    )
    rows = [
        f'<th scope="row">{cell(name)}</th>{_report(case, name, found, used)}'
        for name, found in case["contestants"].items()
    ]
    return "\n".join(f"<tr>{head if i == 0 else ''}{row}</tr>" for i, row in enumerate(rows))


def _report(case: Results, name: str, found: Results, used: list[int]) -> str:
    if "us" not in found:
        told = f"{cell(found['status'])}: {cell(found.get('reason', ''))}"
        return f'<td class="text {_kind(found)}" colspan="{max(len(used), 1)}">{told}</td>'
    cells = _figures(case, name, found)
    return "".join(f"<td>{cell(cells[i])}</td>" for i in used)


def _kind(found: Results) -> str:
    """Return how a status looks: one that is a fault stands out."""
    return "failed" if found["status"] in ("wrong", "crashed") else "missing"


def _figures(case: Results, name: str, found: Results) -> list[str]:
    """Return the cells of a contestant, one for each of COLUMNS."""
    us, over, first = found["us"], found.get("over"), found["first_call_s"].get(found["setting"])
    rate = figures.gflops(case, found)
    return [
        figures.wide_mark(us) + time_text(us["median"]),
        _range(us, time_text),
        time_text(us["best"]),
        figures.wide_mark(over) + three_figures(over["median"]) if over else "",
        _range(over, three_figures) if over else "",
        figures.share_text(found["floor_share"]) if "floor_share" in found else "",
        three_figures(rate) if rate else "",
        f"{found['turns']} x {found['calls']}",
        time_text(1e6 * first) if first is not None else "",
        found["setting"] if found["setting"] != name else "",
    ]


def _range(spread: Results, text: Callable[[float], str]) -> str:
    low, high = map(text, spread["quartiles"])
    return f"{low} to {high}"
