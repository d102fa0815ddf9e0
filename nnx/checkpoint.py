"""Files that hold a network, or a training run: safetensors with a digest, replaced in one step.

What a file has of a training run is in `nnx.resume`.

The format is safetensors, so that other programs can read it. The first entry of its metadata is
the SHA-256 of the whole file, taken with that entry's 64 digits as zeros; no value is used before
it is verified. A file is first written beside its target under one fixed temporary name and takes
the target's place when it is whole and on the disk, so that the last good copy is never lost. One
program at a time may write a path.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from nnx.errors import CheckpointError, NnxError, ShapeError
from nnx.files import checked_path, is_endless, replace_file

if TYPE_CHECKING:
    from nnx.nn import Module

Path = str | os.PathLike[str]
Arrays = Mapping[str, Any]
Texts = dict[str, str]

FORMAT = "1"
"""The version of what nnx puts into the metadata; a reader refuses those it does not know."""

_BLANK = "0" * 64
_START = b'{"__metadata__":{"sha256":"'
_DIGEST = slice(8 + len(_START), 8 + len(_START) + 64)
_TYPES = {
    "bool": "BOOL", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64", "uint8": "U8",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "float16": "F16", "float32": "F32",
    "float64": "F64",
}  # fmt: skip


# Networks


def save(model: Module, path: Path) -> None:
    """Write a network: its architecture as JSON in the metadata, its parameters by their keys.

    Of a network with code of the user's own in it, which no file can describe, the parameters are
    written and its class's name; `load_weights` reads them. Raises: CheckpointError where the
    system refuses (an older file is then as it was); DataError before the module is built.
    """
    from nnx.facts import architecture

    described = {"architecture": architecture(model), "class": type(model).__name__}
    write_tensors(path, model.state_dict(), texts_of("model", **described))


def load(path: Path) -> Module:
    """Return the network in a file of `save`, or of a training, on the default device.

    Raises: CheckpointError for a file that is missing, cut off, damaged, or not of nnx, or whose
    architecture this version does not know, or that of code of a user's own, which no file holds.
    """
    from nnx import dtypes
    from nnx.nn import from_config

    weights, texts = _weights(path)
    if not texts.get("architecture"):
        raise CheckpointError(
            f"{os.fspath(path)} holds the weights of {texts.get('class', 'a module')}, and no "
            f"architecture: there is code in it that no file can describe. Build it in code as it "
            f"was, then: model.load({os.fspath(path)!r})."
        )
    try:
        model = from_config(json.loads(texts["architecture"]), weights)
        floats = {a.dtype.name for a in weights.values() if a.dtype.kind == "f"} or {"float32"}
        if len(floats) == 1 and floats != {"float32"}:
            model.to(dtypes.as_dtype(floats.pop())).load_state_dict(weights)
    except (NnxError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error
    return model


def load_weights(path: Path, model: Module) -> None:
    """Put the parameters in a file of `save`, or of a training, into a network that is there.

    All or nothing, by their keys. Raises: CheckpointError as `load`, and where keys or shapes
    differ, which are named; DataError before the module is built.
    """
    weights, _ = _weights(path)
    try:
        model.load_state_dict(weights)
    except ShapeError as error:
        raise CheckpointError(f"{os.fspath(path)} does not fit this model. {error}") from error


def _weights(path: Path) -> tuple[dict[str, Any], Texts]:
    """Return the parameters of the network in a file, and its texts."""
    arrays, texts = read_tensors(path)
    check_kind(path, texts, ("model", "training"))
    return (within("model.", arrays) if texts["kind"] == "training" else arrays), texts


def texts_of(kind: str, **more: str) -> Texts:
    """Return the metadata of a file of a kind."""
    return {"format": f"nnx {FORMAT}", "kind": kind, **more}


def check_kind(path: Path, texts: Texts, kinds: tuple[str, ...]) -> None:
    """Refuse a file of none of these kinds, or of a newer nnx."""
    form, kind = texts.get("format"), texts.get("kind")
    if form != f"nnx {FORMAT}" or kind not in kinds:
        raise CheckpointError(
            f"{os.fspath(path)} holds a {kind or 'set of arrays'} in format {form!r}; wanted is a "
            f"{' or '.join(kinds)} in format 'nnx {FORMAT}'. "
            + ("Name the other file." if form == f"nnx {FORMAT}" else "Update nnx to read it.")
        )


def within(prefix: str, arrays: Arrays) -> dict[str, Any]:
    """Return the arrays whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


# Named arrays in a file


def write_tensors(
    path: Path, arrays: Arrays, metadata: Mapping[str, str], *, keep_previous: bool = False
) -> None:
    """Write named arrays and texts; equal contents give equal bytes.

    With ``keep_previous`` the file that was there is kept, see `nnx.files.previous_of`.
    Raises: CheckpointError where the system refuses (the file that was there before is then as it
    was), or for a data type that NumPy or safetensors lacks.
    """
    header, blocks = _packed(arrays, metadata)
    digest = hashlib.sha256(header)
    for block in blocks:
        digest.update(block)
    signed = header[: _DIGEST.start] + digest.hexdigest().encode() + header[_DIGEST.stop :]
    replace_file(path, [memoryview(signed), *blocks], keep_previous=keep_previous)


def _packed(arrays: Arrays, metadata: Mapping[str, str]) -> tuple[bytes, list[memoryview]]:
    """Return the bytes before the body, with a blank digest, and the body array by array."""
    import numpy as np

    entries: dict[str, Any] = {"__metadata__": {"sha256": _BLANK, **metadata}}
    blocks: list[memoryview] = []
    start = 0
    # Widest first, by name: every array then lies aligned to its own type.
    for name, given in sorted(arrays.items(), key=lambda kv: (-kv[1].dtype.itemsize, kv[0])):
        kind = _TYPES.get(given.dtype.name)
        if kind is None:
            raise CheckpointError(
                f"{name!r} is of type {given.dtype}, which a safetensors file made with NumPy "
                f"cannot hold. Convert it first: astype('float32')."
            )
        # Bytes of a strided array would be read in the wrong order, and silently.
        array: Any = np.ascontiguousarray(given, given.dtype.newbyteorder("<"))
        stop = start + array.nbytes
        entries[name] = {"dtype": kind, "shape": list(given.shape), "data_offsets": [start, stop]}
        blocks.append(memoryview(array.reshape(-1).view(np.uint8)))
        start = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, blocks


def read_tensors(path: Path) -> tuple[dict[str, Any], Texts]:
    """Return the arrays and texts that `write_tensors` wrote, after checking every byte.

    Raises: CheckpointError for a file that is missing, cut off, damaged, or not of nnx.
    """
    content = _content(path)
    if not content[8:].startswith(_START):
        _explain_foreign(path, content)
    if not _is_whole(content):
        raise CheckpointError(
            f"{os.fspath(path)} is damaged or cut off: its {len(content):,} bytes do not have the "
            f"SHA-256 that stands in it. Copy it again from where it came, or use an older one."
        )
    from safetensors.numpy import load as parse

    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    del metadata["sha256"]
    return parse(content), metadata


def _is_whole(content: bytes) -> bool:
    digest = hashlib.sha256(content[: _DIGEST.start])
    digest.update(_BLANK.encode())
    digest.update(memoryview(content)[_DIGEST.stop :])
    return content[_DIGEST] == digest.hexdigest().encode()


def is_sound(path: Path) -> bool:
    """Return whether there is a file whose bytes have the digest that stands in it."""
    try:
        return _is_whole(_content(path))
    except CheckpointError:
        return False


def _content(path: Path) -> bytes:
    named = checked_path(path)
    if is_endless(named):
        raise CheckpointError(f"{named!r} is a device or a pipe, and no file. Name a file.")
    try:
        with open(named, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise CheckpointError(
            f"There is no file {named!r} (from {os.getcwd()}). Check the path; model.save(path) "
            f"writes one, and nnx.callbacks.Checkpoint(path) one to go on from."
        ) from None
    except IsADirectoryError:
        raise CheckpointError(
            f"{named!r} is a folder. Name the file in it, such as model.safetensors."
        ) from None
    except OSError as error:
        raise CheckpointError(f"Cannot read {named!r}: {error.strerror}.") from error


_SIGNATURES = {
    b"": "it is empty",
    b"PK\x03\x04": "it is a zip archive, as torch.save and numpy.savez write",
    b"\x89HDF": "it is HDF5, as Keras writes",
    b"\x80": "it is a pickle, which nnx never reads",
    b"\x93NUMPY": "it is a NumPy array",
}


def _explain_foreign(path: Path, content: bytes) -> NoReturn:
    named = os.fspath(path)
    if _is_safetensors(content):
        raise CheckpointError(
            f"{named} is a safetensors file of another program: it has no digest and no network "
            f"of nnx. Build the network and give it the arrays: "
            f"model.load_state_dict(safetensors.numpy.load_file({named!r}))."
        )
    what = next((text for start, text in _SIGNATURES.items() if _matches(content, start)), None)
    raise CheckpointError(
        f"{named} is not a file of nnx, or its beginning is damaged"
        + (f": {what}" if what else "")
        + ". nnx reads what model.save(path) wrote."
    )


def _matches(content: bytes, start: bytes) -> bool:
    return content.startswith(start) if start else not content


def _is_safetensors(content: bytes) -> bool:
    size = int.from_bytes(content[:8], "little")
    try:
        return size > 1 and isinstance(json.loads(content[8 : 8 + size]), dict)
    except (ValueError, RecursionError):
        return False
