"""The emitted text of three steps is as it was; ``python -m tests.golden`` writes it anew."""

import difflib

import pytest

from tests.golden.__main__ import FOLDER, TEXTS


@pytest.mark.parametrize("name", TEXTS)
def test_emitted_text_is_as_it_was(name):
    kept = (FOLDER / name).read_text(encoding="utf-8")
    found = TEXTS[name]()
    changes = difflib.unified_diff(kept.splitlines(), found.splitlines(), "kept", "now", n=1)
    assert found == kept, "\n".join(list(changes)[:40]) + "\nIf meant: python -m tests.golden"


def test_no_text_is_kept_for_nothing():
    kept = {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert kept == {*TEXTS, "__main__.py"}


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith(".cu")])
def test_kernels_are_kept_without_their_library(name):
    kept = (FOLDER / name).read_text(encoding="utf-8")
    assert kept.startswith("static __device__") and "namespace nnx" not in kept
