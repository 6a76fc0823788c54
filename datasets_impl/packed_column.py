"""What a column of packed data holds and how its examples lie in arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets_impl.errors import DatasetError

NUMBERS = (
    *("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
DTYPES = (*NUMBERS, "str")
VARIABLE = "v"  # before a dtype: examples may differ in length or shape

# How the examples of a column lie in arrays; n examples, every `offsets` int64 and beginning with 0.
ARRAY = "array"  # one array (n, *shape)
RAGGED = "ragged"  # `data` (total, *shape), `offsets` (n + 1) into it
SHAPED = "shaped"  # `data` (total,), `offsets` (n + 1) into it, `shapes` (n, number of axes)
TEXT = "text"  # `data` uint8, UTF-8, `offsets` (n + 1)
IMAGE = "image"  # `data` uint8, encoded images, `offsets` (n + 1)
IMAGES = "images"  # `data` uint8, encoded images, `item_offsets` (m + 1) into it, `offsets` (n + 1) into the images
PARTS: Mapping[str, tuple[str, ...]] = {
    ARRAY: (),
    RAGGED: ("data", "offsets"),
    SHAPED: ("data", "offsets", "shapes"),
    TEXT: ("data", "offsets"),
    IMAGE: ("data", "offsets"),
    IMAGES: ("data", "item_offsets", "offsets"),
}

INPUT, TARGET = "input", "target"
ROLES = (INPUT, TARGET)


@dataclass(frozen=True)
class PackedColumn:
    """A column as a manifest describes it.

    Attributes:
        name: of the column, and of its arrays in each tier.
        role: `input` or `target`.
        kind: a key of `PARTS`.
        dtype: of its values as a reader gets them: one of `DTYPES`.
        shape: of one example: for `image` (channels, height, width), for `images` with the number of images before; for
            `ragged` that of one item. None where examples differ.
        channels: of images, else 0.
    """

    name: str
    role: str
    kind: str
    dtype: str
    shape: tuple[int, ...] | None
    channels: int = 0

    def arrays(self) -> dict[str, str]:
        """{part: name of its array within a tier}; the part of `array` is the empty text."""
        return {part: f"{self.name}/{part}" for part in PARTS[self.kind]} or {"": self.name}

    def as_json(self) -> dict[str, Any]:
        """The column in a manifest."""
        return {
            "name": self.name,
            "role": self.role,
            "kind": self.kind,
            "dtype": self.dtype,
            "shape": None if self.shape is None else list(self.shape),
            "channels": self.channels,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> PackedColumn:
        """The inverse of `as_json`; `KeyError`, `TypeError` or `ValueError` where it is none."""
        if entry["kind"] not in PARTS or entry["role"] not in ROLES or entry["dtype"] not in DTYPES:
            raise ValueError(f"a column of kind {entry['kind']!r}, role {entry['role']!r}, dtype {entry['dtype']!r}")
        shape = None if entry["shape"] is None else tuple(map(int, entry["shape"]))
        return cls(entry["name"], entry["role"], entry["kind"], entry["dtype"], shape, int(entry["channels"]))


def parse_dtype(text: str, column: str) -> tuple[str, bool]:
    """A dtype as people write it, such as `uint8` or `vfloat32`: its name, and whether lengths may vary.

    Raises:
        DatasetError: it is none of `DTYPES`, with or without `v`.
    """
    if text in DTYPES:
        return text, False
    if text.startswith(VARIABLE) and text.removeprefix(VARIABLE) in DTYPES:
        return text.removeprefix(VARIABLE), True
    raise DatasetError(
        f"the dtype {text!r} of column {column!r} is unknown: choose one of {', '.join(DTYPES)}, "
        f"or one of them after a {VARIABLE} where lengths vary."
    )
