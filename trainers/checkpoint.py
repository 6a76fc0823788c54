"""The whole state of a training as bytes, and back.

A checkpoint is the line `MAGIC`, length and CRC-32 of its header (8 and 4 bytes, big-endian), the header (JSON) and the
body: a zip as `torch.save` writes it, of dicts, lists, tensors, numbers and strings only. It is read with
``weights_only=True``, so that nothing in it can run code. The header holds the body's length and CRC-32 and can be read
alone.
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

from trainers.contract import TrainerError

MAGIC = b"trainloom checkpoint\n"
FORMAT = 2
_LENGTH, _CHECKSUM = 8, 4  # bytes


class DamagedCheckpoint(TrainerError):
    """Bytes that are no whole checkpoint, or one of another format."""


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself.

    Attributes:
        epoch: how many epochs lie behind.
        step: how many batches of the next one lie behind.
        numerics: the settings that the training ran with, ready for `trainers.numerics.pin`.
        identity: see `trainers.learned_state.identity`.
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
    prefix = MAGIC + len(text).to_bytes(_LENGTH, "big") + zlib.crc32(text).to_bytes(_CHECKSUM, "big")
    return b"".join((prefix, text, body))


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


def _described(content: bytes) -> tuple[dict[str, Any], int]:
    """The header as it was written, and where the body starts."""
    if not content.startswith(MAGIC):
        raise DamagedCheckpoint("These bytes are no checkpoint of this trainer; take the one before it.")
    stream = io.BytesIO(content)
    stream.seek(len(MAGIC))
    length = int.from_bytes(stream.read(_LENGTH), "big")
    checksum = int.from_bytes(stream.read(_CHECKSUM), "big")
    text = content[stream.tell() : stream.tell() + length]
    if not text or len(text) != length or zlib.crc32(text) != checksum:
        raise DamagedCheckpoint("The checkpoint's header is damaged; take the one before it.")
    described: dict[str, Any] = json.loads(text)
    version = described["format"]
    if version != FORMAT:
        raise DamagedCheckpoint(
            f"The checkpoint has format {version}, this version reads {FORMAT}; resume with the version that wrote it."
        )
    return described, stream.tell() + length


def _header(described: Mapping[str, Any]) -> Header:
    return Header(**{name: described[name] for name in ("epoch", "step", "numerics", "identity")})
