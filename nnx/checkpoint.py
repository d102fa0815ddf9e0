"""Files that hold a network, or a training run: safetensors with a digest, replaced in one step.

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
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from nnx.errors import CheckpointError, DataError, NnxError, ShapeError
from nnx.files import replace_file

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
    described = {"architecture": _architecture(model), "class": type(model).__name__}
    write_tensors(path, model.state_dict(), _texts("model", **described))


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
    arrays, texts = _opened(path, ("model", "training"))
    return (_within("model.", arrays) if texts["kind"] == "training" else arrays), texts


def _texts(kind: str, **more: str) -> Texts:
    return {"format": f"nnx {FORMAT}", "kind": kind, **more}


def _opened(path: Path, kinds: tuple[str, ...]) -> tuple[dict[str, Any], Texts]:
    """Return what is in a file of one of these kinds."""
    arrays, texts = read_tensors(path)
    form, kind = texts.get("format"), texts.get("kind")
    if form != f"nnx {FORMAT}" or kind not in kinds:
        raise CheckpointError(
            f"{os.fspath(path)} holds a {kind or 'set of arrays'} in format {form!r}; wanted is a "
            f"{' or '.join(kinds)} in format 'nnx {FORMAT}'. "
            + ("Name the other file." if form == f"nnx {FORMAT}" else "Update nnx to read it.")
        )
    return arrays, texts


def _within(prefix: str, arrays: Arrays) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


# Trainings


class Progress(NamedTuple):
    """How far a training had come: the epochs done, and what History had of them."""

    epoch: int
    epochs: list[int]
    history: dict[str, list[float]]


def save_training(path: Path, model: Module, *, epoch: int) -> None:
    """Write all that a training needs to go on exactly after ``epoch`` finished epochs.

    That is the network, the optimizer's slots and step count, the state of the random generator,
    and the history. `load` reads the network from it too.
    Raises: as `save`; DataError for a model that was not compiled.
    """
    from nnx import random
    from nnx.fit import compiled

    optimizer, history = compiled(model).optimizer, getattr(model, "history", None)
    arrays = {f"model.{key}": array for key, array in model.state_dict().items()}
    arrays |= {f"optimizer.{key}": array for key, array in optimizer.state_dict().items()}
    training = {
        "epoch": epoch,
        "epochs": history.epoch if history else [],
        "history": history.history if history else {},
        "optimizer": type(optimizer).__name__,
        "random": random.default_generator().state_dict(),
    }
    texts = {"architecture": _architecture(model), "class": type(model).__name__}
    write_tensors(path, arrays, _texts("training", training=json.dumps(training), **texts))


def load_training(path: Path, model: Module) -> Progress:
    """Put a compiled and built model, its optimizer and the random generator where they were.

    `fit` does this for its ``resume``. On an error nothing is changed.
    Raises: CheckpointError as `load`, and for another architecture or optimizer (said which).
    """
    from nnx import random
    from nnx.fit import compiled

    arrays, texts = _opened(path, ("training",))
    if "training" not in texts:
        raise CheckpointError(f"{os.fspath(path)} lacks the state of its training. Train again.")
    training, optimizer = json.loads(texts["training"]), compiled(model).optimizer
    _check_same(path, model, optimizer, texts, training)
    generator = random.default_generator()
    weights, position = model.state_dict(), generator.state_dict()
    try:
        generator.load_state_dict(training["random"])
        model.load_state_dict(_within("model.", arrays))
        optimizer.bind(model).load_state_dict(_within("optimizer.", arrays))
    except NnxError as error:
        generator.load_state_dict(position)
        model.load_state_dict(weights)
        raise CheckpointError(f"{os.fspath(path)} does not fit this model: {error}") from error
    return Progress(training["epoch"], training["epochs"], training["history"])


def _check_same(
    path: Path, model: Module, optimizer: Any, texts: Texts, training: Mapping[str, Any]
) -> None:
    """Refuse a training of another network or optimizer."""
    if not model.built:
        raise DataError("load_training: the model has no parameters yet. Call it on an example.")
    kind = type(optimizer).__name__
    if training["optimizer"] != kind:
        raise CheckpointError(
            f"{os.fspath(path)} is of a training with {training['optimizer']}, this model is "
            f"compiled with {kind}. Compile it with the same optimizer to go on."
        )
    saved, here = texts["architecture"], _architecture(model)
    if saved and here and saved != here:
        raise CheckpointError(
            f"{os.fspath(path)} is of another network. In the file: {saved}; here: {here}. Build "
            f"the model as it was."
        )


def _architecture(model: Module) -> str:
    """Return a network's description; empty for a user's own module, which code builds again."""
    from nnx.nn import to_config

    try:
        return json.dumps(to_config(model))
    except CheckpointError:
        return ""


# Named arrays in a file


def write_tensors(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """Write named arrays and texts; equal contents give equal bytes.

    Raises: CheckpointError where the system refuses (the file that was there before is then as it
    was), or for a data type that NumPy or safetensors lacks.
    """
    header, blocks = _packed(arrays, metadata)
    digest = hashlib.sha256(header)
    for block in blocks:
        digest.update(block)
    signed = header[: _DIGEST.start] + digest.hexdigest().encode() + header[_DIGEST.stop :]
    replace_file(path, [memoryview(signed), *blocks])


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
    digest = hashlib.sha256(content[: _DIGEST.start])
    digest.update(_BLANK.encode())
    digest.update(memoryview(content)[_DIGEST.stop :])
    if content[_DIGEST] != digest.hexdigest().encode():
        raise CheckpointError(
            f"{os.fspath(path)} is damaged or cut off: its {len(content):,} bytes do not have the "
            f"SHA-256 that stands in it. Copy it again from where it came, or use an older one."
        )
    from safetensors.numpy import load as parse

    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    del metadata["sha256"]
    return parse(content), metadata


def _content(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise CheckpointError(
            f"There is no file {os.fspath(path)!r} (from {os.getcwd()}). Check the path; "
            f"model.save(path) writes one."
        ) from None
    except IsADirectoryError:
        raise CheckpointError(
            f"{os.fspath(path)!r} is a folder. Name the file in it, such as model.safetensors."
        ) from None
    except OSError as error:
        raise CheckpointError(f"Cannot read {os.fspath(path)!r}: {error.strerror}.") from error


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
