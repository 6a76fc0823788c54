"""How stored objects are named in rows and in code."""

from __future__ import annotations

import re

from .errors import NotAnAddress

SCHEME = "trainloom://"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def checked_sha256(text: str) -> str:
    """Return `text` if it is a sha256: 64 lower-case hexadecimal digits.

    Raises
    ------
    NotAnAddress
        If it is anything else, a path for instance.
    """
    if not isinstance(text, str) or not _SHA256.fullmatch(text):
        raise NotAnAddress(f"{text!r} is not a sha256: give 64 lower-case hexadecimal digits")
    return text


def parse_address(text: str) -> str:
    """Return the sha256 of an address `trainloom://<sha256>`.

    Raises
    ------
    NotAnAddress
        If the text has any other form.
    """
    if not isinstance(text, str) or not text.startswith(SCHEME) or not _SHA256.fullmatch(text[len(SCHEME) :]):
        raise NotAnAddress(f"{text!r} is not the address of a stored object: it must read {SCHEME}<sha256>")
    return text[len(SCHEME) :]
