"""The whole state of a training as bytes, and back.

A checkpoint is the line `MAGIC`, the length of its header (8 bytes, big-endian), the header (JSON) and the body: a zip
as `torch.save` writes it, of dicts, lists, tensors, numbers and strings only. It is read with ``weights_only=True``, so
that nothing in it can run code. The header can be read without torch's tensors; it holds the body's length and CRC-32.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainers.contract import TrainerError

MAGIC = b"trainloom checkpoint\n"
FORMAT = 1
_LENGTH = 8  # bytes
_PLAIN = (str, int, float, bool, type(None), torch.dtype, torch.device, torch.Size)


class DamagedCheckpoint(TrainerError):
    """Bytes that are no whole checkpoint, or one of another format."""


class ForeignCheckpoint(TrainerError):
    """A checkpoint of another model or optimizer."""


class UnstorableState(TrainerError):
    """A model or optimizer keeps something that a checkpoint cannot hold."""


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself.

    Attributes:
        epoch: how many epochs lie behind.
        step: how many batches of the next one lie behind.
        numerics: the settings that the training ran with, ready for `trainers.numerics.pin`.
        identity: see `identity`.
    """

    epoch: int
    step: int
    numerics: dict[str, Any]
    identity: dict[str, Any]


def pack(header: Header, state: Mapping[str, Any]) -> bytes:
    """One checkpoint of a state made of dicts, lists, tensors, numbers and strings."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    body = buffer.getbuffer()
    described = {"format": FORMAT, "size": len(body), "crc32": zlib.crc32(body), **vars(header)}
    text = json.dumps(described, allow_nan=False).encode()
    return b"".join((MAGIC, len(text).to_bytes(_LENGTH, "big"), text, body))


def read_header(content: bytes) -> Header:
    """The header of a checkpoint; the body is not looked at.

    Raises:
        DamagedCheckpoint: there is no header of this format.
    """
    return _header(_described(content)[0])


def unpack(content: bytes, device: torch.device | str = "cpu") -> tuple[Header, dict[str, Any]]:
    """Header and state of a checkpoint, tensors on `device`.

    Raises:
        DamagedCheckpoint: the bytes are not those that `pack` made.
    """
    described, start = _described(content)
    body = memoryview(content)[start:]
    if len(body) != described["size"] or zlib.crc32(body) != described["crc32"]:
        raise DamagedCheckpoint("The checkpoint is damaged: its content is not what was saved; take the one before it.")
    try:
        return _header(described), torch.load(io.BytesIO(body), map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError) as error:
        raise DamagedCheckpoint(f"The checkpoint cannot be read by torch {torch.__version__}: {error}") from error


def identity(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What a checkpoint must agree with: the classes, and the parameters' names, shapes and types."""
    return {
        "model": type(model).__qualname__,
        "optimizer": type(optimizer).__qualname__,
        "parameters": {
            name: [list(parameter.shape), str(parameter.dtype)] for name, parameter in model.named_parameters()
        },
    }


def check_identity(saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse the checkpoint of something else.

    Raises:
        ForeignCheckpoint: names the first difference.
    """
    for what in ("model", "optimizer"):
        if saved[what] != here[what]:
            raise _foreign(f"its {what} is {saved[what]}, here it is {here[what]}")
    for name in [*saved["parameters"], *here["parameters"]]:
        before, now = saved["parameters"].get(name), here["parameters"].get(name)
        if before != now:
            raise _foreign(f"its parameter {name} is {_form(before)}, here it is {_form(now)}")


def check_storable(value: Any, path: str) -> None:
    """Refuse what a checkpoint cannot hold.

    Raises:
        UnstorableState: names the place, beginning with `path`.
    """
    if isinstance(value, Mapping):
        for name, part in value.items():
            check_storable(name, f"{path} (a key)")
            check_storable(part, f"{path}.{name}")
    elif type(value) in (list, tuple):
        for place, part in enumerate(value):
            check_storable(part, f"{path}.{place}")
    elif type(value) not in (Tensor, nn.Parameter, *_PLAIN):
        raise UnstorableState(
            f"{path} is a {type(value).__name__}; a checkpoint holds tensors, numbers, strings, lists and dicts only."
        )


def _described(content: bytes) -> tuple[dict[str, Any], int]:
    """The header as it was written, and where the body starts."""
    start = len(MAGIC) + _LENGTH
    if not content.startswith(MAGIC):
        raise DamagedCheckpoint("These bytes are no checkpoint of this trainer; take the one before it.")
    end = start + int.from_bytes(content[len(MAGIC) : start], "big")
    try:
        described = json.loads(content[start:end])
        version = described["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint("The checkpoint's header is damaged; take the one before it.") from error
    if version != FORMAT:
        raise DamagedCheckpoint(
            f"The checkpoint has format {version}, this version reads {FORMAT}; resume with the version that wrote it."
        )
    return described, end


def _header(described: Mapping[str, Any]) -> Header:
    return Header(**{name: described[name] for name in ("epoch", "step", "numerics", "identity")})


def _foreign(difference: str) -> ForeignCheckpoint:
    return ForeignCheckpoint(
        f"The checkpoint was made by other code: {difference}; restore the code, or remove the task's checkpoints to "
        "start anew."
    )


def _form(parameter: list | None) -> str:
    return "missing" if parameter is None else f"{tuple(parameter[0])} of {parameter[1]}"
