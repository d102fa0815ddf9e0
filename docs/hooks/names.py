"""What the site shows of names that exist only when nnx runs: ops, methods of the generator.

A fenced block of the kind ``names`` lists them; each becomes a heading, its call and its docstring.
"""

import importlib
import inspect
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from docstrings import as_markdown

FENCE = re.compile(r"^```names\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def on_config(config):
    """List the decisions in the navigation, whichever there are."""
    pages = sorted((Path(config.docs_dir) / "decisions").glob("*.md"))
    config.nav.append({"Decisions": [f"decisions/{page.name}" for page in pages]})
    return config


def on_page_markdown(markdown, **_):
    """Write out the blocks of names."""
    return FENCE.sub(lambda block: "\n".join(map(described, block[1].split())), markdown)


def described(path):
    """Return one name as Markdown."""
    x = found(path)
    called = callable(x) and not (isinstance(x, type) and issubclass(x, Exception))
    call = f"```python\n{path.rpartition('.')[2]}{signature(x)}\n```\n" if called else ""
    return f"### `{path}` {{ #{path} }}\n\n{call}\n{as_markdown(inspect.getdoc(x) or '')}\n"


def found(path):
    """Return what a dotted name stands for."""
    parts = path.split(".")
    for n in range(len(parts) - 1, 0, -1):
        try:
            x = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            x = getattr(x, part)
        return x
    raise LookupError(f"There is no {path}.")


def signature(x):
    """Return how a function is called, without the namespace that an op is written over."""
    signed = inspect.signature(x)
    parameters = list(signed.parameters.values())
    if hasattr(x, "op") or (parameters and parameters[0].name == "self"):
        parameters = parameters[1:]
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(signed.replace(parameters=bare, return_annotation=inspect.Signature.empty))
