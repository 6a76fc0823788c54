"""Keys: md5 of a canonical text, so that different content never shares a key and equal content always does.

The canonical text is JSON with sorted keys, no spaces and ASCII only. JSON itself tags the types: ``1``, ``1.0``,
``"1"``, ``true``, ``null``, ``[]``, ``{}`` and ``""`` all read differently, and Python's shortest ``repr`` of a float
reads back to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import math
import numbers
from collections.abc import Mapping
from typing import Any

from .errors import InvalidValue

VERSION = "trainloom/1:"  # hashed before the text: a later canonical form can never collide with this one
MAX_DEPTH = 64  # nested containers
MAX_INT_BITS = 4096  # Python itself refuses to print integers of more than 4,300 digits

# `plain` has refused circles already.
_encoder = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, check_circular=False, sort_keys=True, separators=(",", ":")
)


def plain(value: Any, path: str = "value") -> Any:
    """The value as plain Python: None, bool, int, float, str, list and dict with text keys.

    Tuples become lists, NumPy scalars Python numbers.

    Raises
    ------
    InvalidValue
        For NaN, infinity, text a database cannot store, integers of more than 4,096 bits, keys that are not text, sets,
        bytes, arrays and every other object; the message starts with the path of the offending value.
    """
    return _plain(value, path, 0)


def _plain(value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return _text(value, path)
    if kind is bool or value is None:
        return value
    if kind is int:
        return _integer(value, path)
    if kind is float:
        return _real(value, path)
    if depth > MAX_DEPTH:
        raise InvalidValue(f"{path} is nested more than {MAX_DEPTH} deep; flatten it")
    if kind is dict or isinstance(value, Mapping):
        return {_name(name, path): _plain(item, f"{path}.{name}", depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    return _scalar(value, path)


def _scalar(value: Any, path: str) -> Any:
    """Subclasses of the plain types and NumPy scalars, which register with `numbers` but are not exactly int or
    float."""
    if isinstance(value, str):
        return _text(str.__str__(value), path)
    if isinstance(value, int):
        return _integer(int(value), path)
    if isinstance(value, numbers.Integral):
        return _integer(int(value), path)
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        return _real(float(value), path)
    item = getattr(value, "item", None)
    if (
        callable(item)
        and getattr(value, "shape", None) == ()
        and isinstance(converted := item(), bool | int | float | str)
    ):
        return _plain(converted, path, 0)
    hint = (
        "; turn it into a list with .tolist()" if hasattr(value, "tolist") else "; use numbers, text, lists and dicts"
    )
    raise InvalidValue(
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be part of a key{hint}"
    )


def _text(value: str, path: str) -> str:
    if value.isascii():
        if "\0" in value:
            raise InvalidValue(f"{path} holds a NUL character, which a database cannot store; remove it")
        return value
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidValue(
            f"{path} holds a lone surrogate, which a database cannot store; decode the text properly"
        ) from error
    if "\0" in value:
        raise InvalidValue(f"{path} holds a NUL character, which a database cannot store; remove it")
    return value


def _integer(value: int, path: str) -> int:
    if value.bit_length() > MAX_INT_BITS:
        raise InvalidValue(f"{path} is an integer of more than {MAX_INT_BITS} bits; pass it as text")
    return value


def _real(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise InvalidValue(f"{path} is {value}, which no database can compare; use null or leave it out")
    return value


def _name(name: Any, path: str) -> str:
    if not isinstance(name, str):
        raise InvalidValue(f"{path} has the key {name!r}, which is not text; use text keys")
    return _text(str.__str__(name), path)


def text_of(plain_value: Any) -> str:
    """The canonical text of a value that `plain` has already checked."""
    return _encoder.encode(plain_value)


def canonical_text(value: Any, path: str = "value") -> str:
    """The canonical text of a value; see `plain` for what is refused."""
    return text_of(plain(value, path))


def md5_of_text(text: str) -> str:
    """The key that belongs to a canonical text: 32 hexadecimal digits."""
    return hashlib.md5((VERSION + text).encode("ascii"), usedforsecurity=False).hexdigest()


def content_md5(value: Any, path: str = "value") -> str:
    """md5 (32 hexadecimal digits) of a value's canonical text."""
    return md5_of_text(canonical_text(value, path))
