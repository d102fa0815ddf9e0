"""The README: its commands stand as they must, its code runs, its figures are those of the file."""

import re
import shlex
from pathlib import Path

import pytest

from nnx.benchmarks import readme, suite
from nnx.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_commands_stand_alone_on_their_lines():
    lines = README.splitlines()
    assert "python -m pip install -e . && nnx train digits" in lines
    assert 'python -m pip install -e ".[test]" && python -m pytest' in lines


def test_there_is_code():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[-1][:40])
def test_code_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_every_block_is_run():
    kinds = re.findall(r"^ *```(\w*)", README, re.MULTILINE)[::2]
    assert set(kinds) == {"python", "sh"} and "~~~" not in README
    assert len(BLOCKS) == kinds.count("python")


def test_commands_that_look_at_a_run_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NNX_DEVICE", raising=False)
    assert main(["train", "digits", "--epochs", "1"]) == 0
    start = README.index("## See what it does")
    block = re.search(r"```sh\n(.*?)```", README[start:], re.DOTALL)[1]
    commands = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    assert len(commands) == 5
    for words in commands:
        assert main(words) == 0, (words, capsys.readouterr().err)
    assert {path.name for path in (tmp_path / "runs/digits").iterdir()} >= {
        "graph.svg", "weights.png"
    }  # fmt: skip


def test_figures_are_those_of_the_file():
    assert readme.filled(README, suite.read(readme.RESULTS), readme.of_gpu()) == README


def test_without_a_run_on_a_gpu_it_says_so(tmp_path):
    assert readme.of_gpu(tmp_path / "gpu.json") is None
    between = re.search(r"<!-- gpu -->(.*)<!-- /gpu -->", README, re.DOTALL)[1].strip()
    measured = readme.GPU_RESULTS.exists()
    assert (between == "not yet measured on a GPU") is not measured


def test_pictures_are_there():
    for path in re.findall(r"!\[[^]]+\]\(([^)]+)\)", README):
        assert (ROOT / path).stat().st_size > 10_000
