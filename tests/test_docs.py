"""The documentation: its programs run and print what it says, its links and its reference hold.

After a change that is meant, ``python -m tests.test_docs`` writes what the programs print.
"""

import importlib
import os
import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
MARK = "\x1e"
SHELL = "guides/command-line.md"
"""The page whose commands are run; of their output the words are compared, for figures vary."""
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?%?(?!\w)")


def name_of(page):
    return page.relative_to(DOCS).as_posix()


def block(page):
    """Return the pattern of a program and of the output that the page shows of it."""
    kind = "sh" if name_of(page) == SHELL else "python"
    text = rf"^```{kind}\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?"
    return re.compile(text, re.DOTALL | re.MULTILINE)


def blocks(page):
    """Return the programs of a page, each with the output that the page shows."""
    return [(found[1], found[2] or "") for found in block(page).finditer(page.read_text("utf-8"))]


RUNNING = [page for page in PAGES if blocks(page)]


def printed(page, folder):
    """Return what each block of a page prints, run one after the other in a process of their own."""
    if name_of(page) == SHELL:
        mark, command = f"printf '{MARK}'\n", ["bash", "-e", "page"]
    else:
        mark, command = f"print({MARK!r}, end='')\n", [sys.executable, "-W", "error", "page"]
    (folder / "page").write_text(mark.join(code for code, _ in blocks(page)), encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{name_of(page)}:\n{done.stdout}\n{done.stderr}"
    assert name_of(page) == SHELL or not done.stderr, f"{name_of(page)}:\n{done.stderr}"
    return done.stdout.split(MARK)


def alike(shown, came, figures=True):
    """Return whether two outputs are equal.

    Words and whole numbers are compared exactly, fractions and percentages to one in their last
    digit: the last bits of a training depend on the processor.
    """
    if NUMBER.split(shown) != NUMBER.split(came):
        return False
    if not figures:
        return True
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(came), strict=True)
    return all(near(x, y) for x, y in pairs)


def near(shown, came):
    if not set(".e%") & set(shown):
        return shown == came
    x, y = (text.strip("%").replace(",", "") for text in (shown, came))
    mantissa, _, power = x.partition("e")
    unit = 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
    return abs(float(x) - float(y)) <= 1.01 * unit


@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_programs_print_what_the_page_says(page, tmp_path):
    for (code, shown), came in zip(blocks(page), printed(page, tmp_path), strict=True):
        same = alike(shown, came, figures=name_of(page) != SHELL)
        assert same, f"{name_of(page)}\n{code}\nshown:\n{shown}\nprinted:\n{came}"


def update(page, folder):
    """Write what the programs of a page print into it."""
    results = iter(printed(page, folder))

    def shown(found):
        output = next(results)
        start = found[0].partition("\n")[0]
        return f"{start}\n{found[1]}```" + (f"\n\n```text\n{output}```" if output else "")

    page.write_text(block(page).sub(shown, page.read_text("utf-8")), encoding="utf-8")


def main(names):
    import tempfile

    for page in RUNNING:
        if not names or any(name in name_of(page) for name in names):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    update(page, Path(folder))
                except AssertionError as error:
                    print(error)


if __name__ == "__main__":
    main(sys.argv[1:])
