"""The documentation: its programs run and print what it says, its links and its reference hold.

After a change that is meant, ``python -m tests.test_docs`` writes what the programs print.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

import nnx

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


def unlike(page, folder):
    """Return the pictures of a page that its programs draw otherwise; the device may vary."""
    return [
        path.name
        for path in folder.glob("*.svg")
        if (kept := page.parent / path.name).is_file()
        and re.sub(r"device \w+", "", path.read_text("utf-8"))
        != re.sub(r"device \w+", "", kept.read_text("utf-8"))
    ]


def printed(page, folder):
    """Return what each block of a page prints, all run in order in one new process."""
    if name_of(page) == SHELL:
        mark, command = f"printf '{MARK}'\n", ["bash", "-e", "page"]
    else:
        mark, command = f"print({MARK!r}, end='')\n", [sys.executable, "-W", "error", "page"]
    (folder / "page").write_text(mark.join(code for code, _ in blocks(page)), encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name != "NNX_DEVICE"}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
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
    if shown == came or not set(".e%") & set(shown):
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
    assert not unlike(page, tmp_path), "python -m tests.test_docs draws it anew"


@pytest.mark.parametrize(
    ("shown", "came", "same"),
    [
        ("loss 0.25", "loss 0.26", True),
        ("loss 0.25", "loss 0.27", False),
        ("3 of 30", "4 of 30", False),
        ("right: 92%", "right: 91%", True),
        ("right: 92%", "right: 90%", False),
        ("1.00e-03", "1.01e-03", True),
        ("1.00e-03", "1.00e-04", False),
        ("f32[B, 2]", "f32[B, 3]", False),
        ("x 1.0", "y 1.0", False),
        ("1.0", "1.0 2.0", False),
        ("1.0", "inf", False),
    ],
)
def test_output_is_compared_by_the_digits_shown(shown, came, same):
    assert alike(shown, came) is same


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_program_is_one_that_runs_or_parses(page):
    text = page.read_text("utf-8")
    fences = re.findall(r"^( *)```(\w*)", text, re.MULTILINE)[::2]
    assert all(not indent for indent, _ in fences), "an indented program would not be run"
    assert {kind for _, kind in fences} <= {"python", "py", "sh", "text", "toml", "names", ""}
    for code in re.findall(r"^```py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        ast.parse(code)  # programs of other libraries


ELSEWHERE = ("python -m pip install", "python -m pytest", "mkdocs ", "ruff ")
"""How lines begin that are no commands of nnx: these are run when the repository is checked."""


def shell_lines():
    """Return the commands of all pages whose commands are not run, with where they stand."""
    for page in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        if page.is_relative_to(DOCS) and name_of(page) == SHELL:
            continue
        for code in re.findall(r"^```sh\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.M):
            for line in code.splitlines():
                for command in line.partition(" #")[0].split(" && "):
                    yield page.name, command.strip()


@pytest.mark.parametrize(("page", "command"), sorted(set(shell_lines())))
def test_commands_that_are_not_run_are_there_with_their_options(page, command):
    import typer

    from nnx.cli.app import app

    if command.startswith(("mypy", *ELSEWHERE)):
        return
    program, name, *words = shlex.split(command)
    assert program == "nnx"
    group = typer.main.get_command(app)
    context = group.make_context("nnx", [name, *words])
    group.resolve_command(context, [name])[1].make_context(name, words, parent=context)


def test_lessons_are_pages_and_programs():
    lessons = {page.stem.replace("-", "_") for page in (DOCS / "lessons").glob("*.md")}
    programs = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert lessons - {"counting"} == programs - {"count_ops"}
    for page in (DOCS / "lessons").glob("*.md"):
        found = re.findall(r"`examples/(\w+)\.py`", page.read_text("utf-8"))
        assert found and set(found) <= programs, page.name


# Links


def slug(heading):
    """Return the anchor that Python-Markdown gives a heading."""
    bare = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"[-\s]+", "-", bare)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_file(), f"{name_of(page)} links to {target}"
        headings = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
        assert not anchor or anchor in map(slug, headings), f"{name_of(page)} links to {target}"


# The reference


def hook(name):
    """Return one of the site's hooks as a module."""
    spec = util.spec_from_file_location(f"docs_hook_{name}", DOCS / "hooks" / f"{name}.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written_out():
    """Return the names that the reference has an entry for, members with their owner."""
    names = set()
    for page in (DOCS / "reference").glob("*.md"):
        text = page.read_text("utf-8")
        for block in re.findall(r"^```names\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            names |= set(block.split())
        for owner, members in re.findall(
            r"^::: (\S+)(?:\n    options:\n      members: \[(.*)\])?", text, re.MULTILINE
        ):
            names |= {owner, *(f"{owner}.{member}" for member in members.split(", ") if member)}
    return names


def mentioned():
    """Return the names of nnx that the reference has in its text."""
    pages = (DOCS / "reference").glob("*.md")
    return {name for page in pages for name in re.findall(r"`(nnx\.\w[\w.]*)", page.read_text())}


def public():
    """Return every name that users import."""
    for space in ("nnx", "nnx.nn", "nnx.optim", "nnx.data", "nnx.testing"):
        yield from (f"{space}.{name}" for name in hook_found(space).__all__)
    yield from (f"nnx.metrics.{name}" for name in nnx.metrics.METRICS)
    yield from (f"nnx.nn.init.{name}" for name in nnx.nn.init.TABLE)
    for name, x in vars(nnx.callbacks).items():
        if isinstance(x, type) and issubclass(x, nnx.callbacks.Callback) and name[0] != "_":
            yield f"nnx.callbacks.{name}"
    draws = ("uniform", "normal", "integers", "permutation", "bernoulli")
    yield from (f"nnx.random.{name}" for name in ("seed", "Generator", *draws))
    yield from (f"nnx.nn.Module.{name}" for name in vars(nnx.nn.Module) if name in METHODS)


METHODS = ("parameters", "named_parameters", "state_dict", "load_state_dict", "train", "eval", "to")


def hook_found(path):
    import importlib

    return importlib.import_module(path)


def test_reference_has_every_public_name():
    missing = sorted(set(public()) - written_out() - mentioned())
    assert not missing, f"docs/reference lacks {missing}: add a line `::: name` to its page"


def test_reference_has_no_name_that_is_gone():
    found = hook("names").found
    for name in written_out():
        assert found(name) is not None or name == "nnx.newaxis", name


def test_ops_are_shown_as_users_call_them():
    names = hook("names")
    assert names.signature(nnx.relu) == "(x, /)"
    assert names.signature(nnx.sum) == "(x, /, axis=None, *, keepdims=False)"
    assert names.signature(nnx.random.bernoulli) == "(p, shape=(), *, device=None)"


def test_docstrings_become_markdown():
    text = "Sum of a * b.\nShapes: x (B, I) -> (B,)\nRaises: ShapeError.\n\n>>> 1 + 1\n2"
    assert hook("docstrings").as_markdown(text) == (
        "Sum of a &#42; b.\n\n\n**Shapes:** x (B, I) -> (B,)\n\n\n**Raises:** ShapeError.\n\n"
        "```pycon\n>>> 1 + 1\n2\n```"
    )


# The site


def test_site_builds_and_asks_no_other_host(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        if util.find_spec(package) is None:
            pytest.skip(f'{package} is not installed: python -m pip install -e ".[docs]"')
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built = [path.relative_to(site).as_posix() for path in site.rglob("*.html")]
    assert len(built) >= len(PAGES)
    for path in site.rglob("*.html"):
        loads = r"<(?:script|link|img|iframe|source)[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
        assert not re.findall(loads, path.read_text("utf-8")), path
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", path.read_text("utf-8"))


# Writing what the programs print


def update(page, folder):
    """Write what the programs of a page print into it."""
    results = iter(printed(page, folder))
    for name in unlike(page, folder):
        (page.parent / name).write_text((folder / name).read_text("utf-8"), encoding="utf-8")

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
