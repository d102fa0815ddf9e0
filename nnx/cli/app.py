"""The commands together, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from nnx.cli import commands
from nnx.cli.options import UsageError
from nnx.errors import DeviceError, NnxError

# The base class of what the parser finds wrong; typer names only its subclass in public.
ParseError = typer.BadParameter.__mro__[1]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
COMMANDS = {
    command.__name__: command
    for command in (
        commands.devices,
        commands.train,
        commands.evaluate,
        commands.predict,
        commands.parity,
        commands.doctor,
        commands.bench,
    )
}
for _command in COMMANDS.values():
    app.command()(_command)


def _version(asked: bool) -> None:
    if asked:
        import nnx

        print(f"nnx {nnx.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def nnx_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train a neural network and run it on any device.

    The first step, which needs no file:  nnx train digits
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    _make_streams_lenient()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            status = app(typed, prog_name="nnx", standalone_mode=False)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has left; what is still buffered must not raise at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (KeyboardInterrupt, typer.Abort):
            return _stop("stopped.", 130)
        except Exception as error:
            if "--debug" in typed:
                traceback.print_exc()
            return _fail(error, typed)
    return status if isinstance(status, int) else 0


def _fail(error: Exception, typed: Sequence[str]) -> int:
    """Say what went wrong in at most three lines, and return the exit status."""
    if isinstance(error, UsageError | ParseError):
        text = getattr(error, "format_message", error.__str__)()
        command = next((word for word in typed[:1] if word in COMMANDS), "")
        return _stop(f"error: {_one_line(text)}", 2, f"Try `{f'nnx {command}'.strip()} --help`.")
    if isinstance(error, OSError) and not isinstance(error, NnxError):
        error = OSError(": ".join(filter(None, (str(error.filename or ""), error.strerror))))
    if isinstance(error, DeviceError):
        return _stop(f"error: {_one_line(error)}", 2, "`nnx devices` lists what can run here.")
    if isinstance(error, NnxError | OSError):
        return _stop(f"error: {_one_line(error)}", 1)
    if isinstance(error, MemoryError):
        return _stop("error: out of memory. Try a smaller --batch-size or --hidden.", 1)
    return _stop(
        f"error: {type(error).__name__}: {_one_line(error)}",
        1,
        "This is a fault in nnx. Run it again with --debug and report what it prints.",
    )


def _stop(message: str, status: int, hint: str = "") -> int:
    lines = [f"nnx: {message}", *([f"nnx: {hint}"] if hint else [])]
    print("\n".join(lines), file=sys.stderr)
    return status


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"nnx: warning: {_one_line(message)}", file=sys.stderr)


def _make_streams_lenient() -> None:
    """Let a name that the terminal's encoding lacks be printed as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
