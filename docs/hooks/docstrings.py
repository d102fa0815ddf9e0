"""Docstrings as Markdown: lines such as Shapes and Raises apart, doctests, signs as they are."""

import re

try:
    from griffe import Extension
except ImportError:  # the tests read docstrings without the site's packages
    Extension = object

LABELS = ("Shapes", "Dtype", "Gradient", "Numerics", "Raises", "Source", "Fans")
LABEL = re.compile(rf"(^|(?<=\. ))({'|'.join(LABELS)}): ", re.MULTILINE)
CODE = re.compile(r"``.+?``|`[^`\n]+`")


class Docstrings(Extension):
    """Turn each docstring into Markdown as it is read."""

    def on_instance(self, *, obj, **_):
        """Change the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text):
    """Return a docstring as Markdown."""
    parts, example = [], []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = paragraph.split("\n")
        if lines[0].lstrip().startswith(">>>"):
            example += lines
        elif all(line.startswith("    ") for line in lines):
            parts.append(paragraph)
        else:
            parts.append(prose(paragraph))
    if example:
        parts.append("\n".join(["```pycon", *example, "```"]))
    return "\n\n".join(parts)


def prose(paragraph):
    """Return a paragraph with its labels on lines of their own, and no sign taken for Markdown."""
    codes = CODE.findall(paragraph)
    rest = CODE.sub("\0", paragraph)
    rest = re.sub(r"[*_<\[\]#]|^[-+]", lambda sign: f"&#{ord(sign[0])};", rest, flags=re.MULTILINE)
    for code in codes:
        rest = rest.replace("\0", f"`{code.strip('`')}`", 1)
    return LABEL.sub(lambda found: f"\n\n**{found[2]}:** ", rest).strip()
