"""The command `nnx`: exit status 0, 1 where something failed, 2 where the command was wrong."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        # Imported here, so that Ctrl-C in the first moments is quiet too.
        from nnx.cli.app import run
    except KeyboardInterrupt:
        return 130
    return run(arguments)
