"""The report of a run: it fits a terminal, shows what was and was not measured, and is whole."""

import copy
import doctest
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
from PIL import Image

import nnx.benchmarks
from nnx.benchmarks import figures, harness, page, pictures, report, roofs, suite
from nnx.benchmarks.case import DEVICES, PEERS

RATES = {
    "products": {"one thread": 100.0, "all threads": 180.0},
    "memory": [[16384.0, 50.0], [262144.0, 100.0], [4194304.0, 90.0], [67108864.0, 12.0]],
}
FIRST = {"numpy": 90.0, "numba": 8.0, "cupy": 30.0, "torch": 60.0, "products": 1.0}
ABSENT = {"jax-cuda": "jax is not installed"}
SUITES = tuple(suite.SUITES)


def timed(us, spread=0.1):
    """Return the figures of a contestant whose quartiles are a share of the median apart."""
    low, high = us * (1 - spread / 2), us * (1 + spread / 2)
    return {
        "status": "ok", "first_call_s": {"usual": 0.5}, "setting": "usual", "calls": 10,
        "trial_us": {}, "us": {"median": us, "quartiles": [low, high], "best": low}, "turns": 15,
    }  # fmt: skip


def missing(status, reason):
    return {"status": status, "reason": reason}


def contestant(case, name, flops):
    """Return made-up figures of a contestant; of each status there are some."""
    if name in ABSENT:
        return missing("unavailable", ABSENT[name])
    if name in ("loops", "textbook") and case.work > 200_000:
        return missing("not run", f"a call would take about {case.work * 1e-7:.2g} s")
    if name == "torch-compile":
        return missing("crashed", f"RuntimeError: no memory ({case.suite}, {case.name})")
    if name == "jax" and case.suite == "train":
        return missing("wrong", "computes something else: off by 1.0e-02")
    speed = {"loops": 1e-2, "textbook": 2e-2, "numpy": 2.0, "numba": 40.0}.get(name, 20.0)
    return timed(FIRST.get(name, 20.0) + 1e-3 * flops / speed, 0.3 if name == "torch" else 0.1)


def made_up(suites=SUITES, quick=True):
    """Return results of all contestants, as a run would: invented, and the same each time."""
    cases = []
    for _, chosen in suite.chosen(suites, quick):
        for case in chosen:
            flops, n_bytes = case.flops or 2 * case.work, case.n_bytes or case.work
            found = {name: contestant(case, name, flops) for name in case.contestants}
            one = found[case.reference]["us"]["median"]
            for report_ in found.values():
                if "us" in report_:
                    over = [q / one for q in report_["us"]["quartiles"]]
                    median = report_["us"]["median"] / one
                    report_["over"] = {
                        "reference": case.reference, "median": median, "quartiles": over,
                    }  # fmt: skip
            cases.append(
                {
                    "suite": case.suite, "group": case.group, "name": case.name,
                    "reference": case.reference, "flops": flops, "bytes": n_bytes,
                    "busy_turns": 0, "contestants": found,
                }
            )  # fmt: skip
            suite._set_beside_floor(cases[-1], RATES)
    return {
        "schema": suite.SCHEMA,
        "machine": {
            "cpu": "A Processor", "cores": 2, "gpu": ["A GPU"], "load": [0.1, 0.2, 0.3],
            "system": "Linux", "python": "3.11.7", "versions": {"numpy": "2.4.0"},
            "threads": {"OMP_NUM_THREADS": "default"}, "commit": "0123456789", "date": "2026-01-31",
        },
        "settings": {
            "suites": list(suites), "devices": list(DEVICES), "peers": list(PEERS), "quick": quick,
            **harness.QUICK._asdict(),
        },
        "rates": copy.deepcopy(RATES), "unavailable": dict(ABSENT), "cases": cases,
    }  # fmt: skip


EVIL = "<script>alert(1)</script><img src=http://evil.example/x>&\"'$x_1$\x1b[31m\n|"


def evil():
    """Return results in which each name and reason tries to be something else."""
    results = made_up(("train", "crossover"))
    for i, case in enumerate(results["cases"]):
        if case["suite"] == "train":
            case["name"] = case["group"] = f"{EVIL}{i}"
            case["contestants"] |= {EVIL: timed(55.0), "bad": missing("crashed", EVIL)}
    results["machine"] |= {"cpu": EVIL, "commit": EVIL, "versions": {EVIL: EVIL}}
    return results | {"unavailable": {EVIL: EVIL}}


@pytest.fixture(scope="module")
def results():
    return made_up()


@pytest.fixture(scope="module")
def folder(results, tmp_path_factory):
    """A folder that a report of all suites was written into."""
    path = tmp_path_factory.mktemp("report")
    assert report.write(results, path) == path / "report.html"
    return path


# Words


def test_examples_of_figures_hold():
    found = doctest.testmod(figures)
    assert found.attempted >= 7
    assert found.failed == 0


def test_quartiles_far_apart_are_marked():
    assert not figures.is_wide({"median": 10.0, "quartiles": [9.1, 11.0]})
    assert figures.is_wide({"median": 10.0, "quartiles": [9.0, 11.1]})


def test_best_peer_is_neither_nnx_nor_a_floor():
    found = {"numba": timed(1.0), "products": timed(0.5), "torch": timed(8.0)}
    case = {"contestants": found | {"numpy-by-hand": timed(4.0), "jax": missing("wrong", "off")}}
    assert figures.best_peer(case) == "numpy-by-hand"
    ratios = figures.to_best_peer(case)
    assert {name: ratio["median"] for name, ratio in ratios.items()} == {
        "numba": 0.25, "products": 0.125, "torch": 2.0, "numpy-by-hand": 1.0,
    }  # fmt: skip
    assert ratios["torch"]["quartiles"] == pytest.approx([1.9, 2.1])
    assert figures.best_peer({"contestants": {"numba": timed(1.0)}}) is None


def crossed(batch, *winners):
    """Return the cases of a batch, in which the device named wins at widths 1, 4, 16, ..."""
    return [
        {
            "suite": "crossover", "name": f"width {4**i}, batch {batch}",
            "contestants": {n: timed(1.0 if n == name else 3.0) for n in ("numpy", "numba")},
        }
        for i, name in enumerate(winners)
    ]  # fmt: skip


def test_wins_are_told_for_each_batch():
    cases = [
        *crossed(64, "numpy", "numba", "numba"), *crossed(1, "numba", "numba"),
        *crossed(8, "numpy", "numpy", "numba", "numpy"),
    ]  # fmt: skip
    grid = figures.crossover({"cases": cases[::-1]})
    assert figures.wins_text(grid) == [
        "At batch 1, numba wins at every width measured.",
        "At batch 8, numpy wins from width 1 to 4, numba wins at width 16, "
        "numpy wins from width 64 on.",
        "At batch 64, numpy wins at width 1, numba wins from width 4 on.",
    ]


def test_winner_is_close_where_quartiles_overlap():
    assert figures.winner({"a": timed(1.0)["us"], "b": timed(2.0)["us"]}) == ("a", 2.0, False)
    assert figures.winner({"a": timed(1.08)["us"], "b": timed(1.0)["us"]}).is_close
    assert figures.winner({"a": timed(1.0)["us"]}) == ("a", None, False)


def test_smaller_memory_is_never_a_lower_roof():
    assert roofs.levels(RATES["memory"]) == [(100.0, 4194304.0), (12.0, 67108864.0)]


def test_bars_show_the_largest_size_that_loops_ran():
    sizes = {"small": (10, True), "middle": (100, True), "large": (1000, False)}
    cases = [
        {"suite": "ops", "group": "relu", "name": name, "flops": flops, "contestants":
         {"loops": timed(1.0) if ran else missing("not run", "long"), "numba": timed(1.0)}}
        for name, (flops, ran) in sizes.items()
    ]  # fmt: skip
    assert [c["name"] for c in pictures.shown_cases({"cases": cases})["ops"]] == ["middle"]
    assert [c["name"] for c in pictures.shown_cases({"cases": cases[2:]})["ops"]] == ["large"]


# Text


def lines(results):
    return report.text(results).splitlines()


def test_text_fits_a_terminal(results):
    names = figures.names_of(results["cases"])
    assert len(names) >= 10
    for made in (results, made_up(quick=False), evil()):
        found = lines(made)
        assert max(map(len, found)) <= report.COLUMNS
        assert all(line.isprintable() and line == line.rstrip() for line in found)
    headers = [word for line in lines(results) if line.startswith("     ") for word in line.split()]
    short = " ".join(map(figures.short_name, names)).split()
    assert set(short) <= set(headers)


def test_line_of_a_case_has_times_ratios_and_the_floor():
    results = made_up(("train",))
    case = results["cases"][0]
    case["contestants"] = {
        "loops": missing("not run", "a call would take long"), "numba": timed(20.0),
        "torch": timed(157.0, 0.3), "cupy": missing("unavailable", "no GPU"),
    }  # fmt: skip
    case["contestants"]["torch"]["over"] = {
        "reference": "numba", "median": 7.85, "quartiles": [7.8, 7.9],
    }  # fmt: skip
    case["contestants"]["numba"] |= {"floor_share": 0.61}
    results["cases"] = [case | {"floor_us": 12.2}]
    found = lines(results)
    i = next(i for i, line in enumerate(found) if line.startswith(case["name"]))
    assert found[i - 1].split() == ["loops", "numba", "torch", "cupy"]
    assert found[i].split()[1:] == ["not", "run", "20.0us", "~157us", "absent"]
    assert found[i + 1].split() == ["over", "numba", "7.85x"]
    assert found[i + 2].split() == ["of", "the", "floor,", "12.2", "us", "61%"]
    assert found[i + 1].index("7.85x") + 5 == found[i].index("157us") + 5  # under its time
    assert any(line.startswith("~ the quartiles lie further apart") for line in found)


def test_text_explains_marks_only_where_there_are_some(results):
    calm = copy.deepcopy(results)
    for case in calm["cases"]:
        for found in case["contestants"].values():
            for spread in (found.get("us"), found.get("over")):
                if spread:
                    spread["quartiles"] = [spread["median"]] * 2
    assert "~" in report.text(results)
    assert "~" not in report.text(calm)


def test_text_shows_each_status_with_its_reason(results):
    text = report.text(results)
    flat = " ".join(text.split())
    tables = text[: text.index("\n~ ")]
    for word in ("absent", "not run", "wrong", "crashed"):
        assert re.search(rf"\b{word}\b", tables)
    for case in results["cases"]:
        for name, found in case["contestants"].items():
            if found["status"] in ("unavailable", "wrong", "crashed"):
                assert f"{name}: {found['status']}" in flat
                assert flat.count(found["reason"]) == 1
    assert len(re.findall(r"loops: not run", flat)) == 1  # whose reasons differ in a number alone


def test_text_begins_with_machine_and_rates(results):
    assert lines(results)[0] == "A Processor, 2 cores, A GPU, 2026-01-31"
    assert lines(results)[1].startswith("Products: 100 on one thread, 180 on all threads, GFLOP/s.")


def test_report_says_how_the_run_went():
    results = made_up(("overhead",), quick=False)
    assert figures.runs_text(results) == []
    results["settings"]["quick"] = True
    results["machine"]["load"] = [1.5, 1.0, 1.0]
    results["cases"][0]["busy_turns"] = 7
    quick, busy, turns = figures.runs_text(results)
    assert quick.startswith("A quick run")
    assert "a load of 1.5 on 2 cores" in busy
    assert turns.startswith("7 turns began on a busy machine")
    text, page_text = " ".join(report.text(results).split()), page.html(results, [])
    for sentence in (quick, busy, turns):
        assert sentence in text
        assert sentence in page_text


# Pictures


def test_pictures_have_something_on_them(folder):
    for name in pictures.DRAWINGS:
        image = np.asarray(Image.open(folder / f"{name}.png").convert("RGBA"), float)
        assert min(image.shape[:2]) > 300
        assert image[..., :3].std() > 20
        corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert (corners == 255).all()  # white and opaque, to be read on a dark page too


def test_pictures_are_whole_files_without_links(folder):
    for name in pictures.DRAWINGS:
        text = (folder / f"{name}.svg").read_text(encoding="utf-8")
        tree = ElementTree.fromstring(text.encode())
        links = [v for e in tree.iter() for k, v in e.attrib.items() if k.endswith("href")]
        assert all(link.startswith("#") for link in links)
        assert set(re.findall(r"https?://[^\"<\s]*", text)) == {"http://www.w3.org/2000/svg"}


def test_same_results_are_drawn_alike(results):
    few = results | {"cases": [c for c in results["cases"] if c["suite"] == "crossover"]}
    assert pictures.draw(few) == pictures.draw(few)


@pytest.mark.parametrize(
    ("suites", "names"),
    [
        (("ops",), {"devices", "roofline"}),
        (("train",), {"devices", "roofline", "steps"}),
        (("crossover",), {"crossover", "roofline"}),
        (("compile",), set()),
    ],
)
def test_part_of_the_suites_gives_part_of_the_report(suites, names, tmp_path):
    results = made_up(suites)
    for case in results["cases"]:
        if case["suite"] == "compile":
            case |= {"flops": 0, "bytes": 0}
    parsed = Page(report.write(results, tmp_path).read_text(encoding="utf-8"))
    assert {path.stem for path in tmp_path.glob("*.png")} == names
    assert {path.stem for path in tmp_path.glob("*.svg")} == names
    assert len(parsed.pictures) == len(names)
    assert {key for key in parsed.ids if key.startswith("suite-")} == {f"suite-{suites[0]}"}


def test_steps_without_a_peer_are_not_drawn():
    results = made_up(("train",))
    for case in results["cases"]:
        case["contestants"] = {n: f for n, f in case["contestants"].items() if n not in PEERS}
    assert {picture.name for picture in pictures.draw(results)} == {"devices", "roofline"}


def test_what_was_not_run_has_no_bar():
    results = made_up(("dense",))
    devices = {picture.name: picture for picture in pictures.draw(results)}["devices"]
    n_not_run = sum(case["contestants"][name]["status"] == "not run" for case in results["cases"]
                    for name in figures.OURS)  # fmt: skip
    assert n_not_run > 0
    words = re.findall(r">([^<>]+)</text>", devices.svg)
    assert words.count("not run") == n_not_run
    for case in results["cases"]:
        for name, found in case["contestants"].items():
            if name in figures.OURS and "us" in found:
                assert figures.time_text(found["us"]["median"]) in words


def test_drawing_leaves_the_caller_s_matplotlib_alone():
    matplotlib = pytest.importorskip("matplotlib")
    before, was_loaded = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    pictures.draw(made_up(("crossover",)))
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == was_loaded


# The page

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(html.parser.HTMLParser):
    """What a page has: its tags in balance, links, ids, text, and the drawn paths of pictures."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.words = [], [], [], [], []
        self.pictures, self.styles = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "srcset", "action", "data", "xlink:href", "poster"):
                self.links.append(value)
            elif key == "id":
                self.ids.append(value)
            elif key == "style":
                self.styles.append(value)
            assert not key.startswith("on")
        if tag == "svg":
            self.pictures.append({"paths": 0, "attrs": dict(attrs)})
        elif tag in ("path", "use") and self.pictures and "svg" in self.open:
            self.pictures[-1]["paths"] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.styles if self.open and self.open[-1] == "style" else self.words).append(data)


@pytest.fixture(scope="module")
def parsed(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_page_asks_for_nothing_from_outside(folder, parsed):
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert all(link == "data:," or link.startswith("#") for link in parsed.links)
    assert set(link[1:] for link in parsed.links if link.startswith("#")) <= set(parsed.ids)
    for style in parsed.styles:
        assert "@import" not in style
        assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?(.)", style))
    assert not {"script", "iframe", "object", "embed", "img", "base"} & set(parsed.tags)


def test_page_has_a_picture_of_each_kind(parsed):
    assert len(parsed.pictures) == len(pictures.DRAWINGS)
    for picture in parsed.pictures:
        assert picture["paths"] > 20
        assert picture["attrs"]["role"] == "img"
        assert set(picture["attrs"]["aria-labelledby"].split()) <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))  # of all pictures together


def test_page_takes_the_reader_s_colours(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    drawn = text[text.index("<svg") : text.rindex("</svg>")]
    assert "currentColor" in drawn
    assert not re.search(r"fill: *(#0{3,6}|black)\b", drawn)


def test_page_has_every_figure_and_reason(results, parsed):
    words = " ".join(parsed.words)
    for case in results["cases"]:
        assert case["name"] in words
        for found in case["contestants"].values():
            if "us" in found:
                assert figures.time_text(found["us"]["median"]) in words
                low, high = map(figures.time_text, found["us"]["quartiles"])
                assert f"{low} to {high}" in words
            else:
                assert f"{found['status']}: {found['reason']}" in words
    for sentence in figures.wins_text(figures.crossover(results)):
        assert sentence in words
    assert "A Processor, 2 cores" in words
    assert len(page.METHOD) == 5


def test_names_cannot_become_part_of_the_page(tmp_path):
    found = Page(report.write(evil(), tmp_path).read_text(encoding="utf-8"))
    assert "script" not in found.tags
    assert "img" not in found.tags
    assert all(link == "data:," or link.startswith("#") for link in found.links)
    words = " ".join(found.words)
    assert words.count(figures.plain(EVIL)) > 10
    for path in tmp_path.glob("*.svg"):
        ElementTree.fromstring(path.read_bytes())


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def opened(path, tmp_path):
    """Return the text of a page in a browser, and what the page asked the network for."""
    log = tmp_path / "network.json"
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update",
         "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
         f"--log-net-log={log}", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, encoding="utf-8", timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = json.loads(log.read_text(encoding="utf-8"))
    started = kept["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [event.get("params", {}) for event in kept["events"] if event["type"] == started]
    # The browser asks for things of its own, which no page began.
    return done.stdout, [
        p["url"] for p in asked
        if p.get("initiator", "not an origin") != "not an origin" and p["url"].startswith("http")
    ]  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
def test_page_opens_in_a_browser_that_asks_for_nothing(folder, tmp_path):
    dom, asked = opened(folder / "report.html", tmp_path)
    assert asked == []
    assert dom.count("<svg") == len(pictures.DRAWINGS)
    assert 'id="suite-crossover"' in dom
    text = (folder / "report.html").read_text(encoding="utf-8")
    control = tmp_path / "control.html"
    control.write_text(text.replace("<main>", '<main><img src="http://192.0.2.1/x.png">'))
    assert opened(control, tmp_path)[1] == ["http://192.0.2.1/x.png"]


# The file of results

SCHEMA = json.loads(
    Path(nnx.benchmarks.__file__).with_name("schema.json").read_text(encoding="utf-8")
)


def errors(results):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return [error.json_path for error in validator.iter_errors(json.loads(json.dumps(results)))]


def test_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema"]["const"] == suite.SCHEMA


def test_made_up_results_are_as_a_run_s(results):
    assert errors(results) == []


def test_results_of_a_run_fit_the_schema_and_the_report(monkeypatch, tmp_path):
    monkeypatch.setattr(suite.rates, "measured", lambda quick: RATES)
    settings = harness.Settings(rounds=2, length_s=0.0005, looped_s=0.0, case_s=0.01)
    results = suite.run(["dense"], ["numpy"], ["numpy-by-hand"], quick=True, settings=settings)
    assert errors(results) == []
    suite.write(results, tmp_path / "results.json")
    assert errors(suite.read(tmp_path / "results.json")) == []
    assert max(map(len, lines(results))) <= report.COLUMNS
    Page(report.write(results, tmp_path).read_text(encoding="utf-8"))


def damage(path, value):
    """Return results with a value in place of one of a case's, by keys; None takes it away."""
    results = made_up(("train",))
    *keys, last = path
    inner = results
    for key in keys:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return results


NUMBA = ("cases", 0, "contestants", "numba")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "nnx-bench/2"),
        (("machine", "cores"), "two"),
        (("machine", "date"), "yesterday"),
        (("settings", "rounds"), 0),
        (("rates", "memory"), []),
        (("rates", "products", "one thread"), -1.0),
        (("cases", 0, "reference"), None),
        (("cases", 0, "surprise"), 1),
        (("cases", 0, "flops"), 1.5),
        ((*NUMBA, "us"), None),
        ((*NUMBA, "us", "median"), 0),
        ((*NUMBA, "us", "quartiles"), [1.0]),
        ((*NUMBA, "status"), "fine"),
        ((*NUMBA, "reason"), "it is fine"),
        (NUMBA, {"status": "crashed"}),
        (NUMBA, {"status": "not run", "reason": ""}),
        (("unavailable", "torch"), 3),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_damaged_results_do_not_fit_the_schema(path, value):
    assert errors(damage(path, value))
