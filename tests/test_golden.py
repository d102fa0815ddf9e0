"""The emitted text of three steps is as it was; ``python -m tests.golden`` writes it anew."""

import difflib

import pytest

from tests.golden.__main__ import FOLDER, STEPS


@pytest.mark.parametrize("name", STEPS)
def test_emitted_text_is_as_it_was(name):
    kept = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    found = STEPS[name]()
    changes = difflib.unified_diff(kept.splitlines(), found.splitlines(), "kept", "now", n=1)
    assert found == kept, "\n".join(list(changes)[:40]) + "\nIf meant: python -m tests.golden"


def test_no_text_is_kept_for_nothing():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*STEPS, "__main__"}
