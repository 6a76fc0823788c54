"""An error as a person reads it: its sentence and those of its causes, and the exit code it stands for."""

from __future__ import annotations

import os

FAILED = 1
# Errors of these packages are written for people; those of others need the name of their class to say anything.
OUR_PACKAGES = frozenset({"pipeline", "schemas", "datasets_impl", "models_impl", "trainers", "k8s", "datajoint"})


def describe(error: BaseException) -> str:
    """``error: …`` and a line ``because: …`` for every cause that adds something to what was said."""
    said = [_sentence(error)]
    cause = _cause(error)
    while cause is not None:
        sentence = _sentence(cause)
        if not any(sentence in earlier or _adds_nothing(cause, earlier) for earlier in said):
            said.append(sentence)
        cause = _cause(cause)
    return "\n  because: ".join([f"error: {said[0]}", *said[1:]])


def exit_code(error: BaseException) -> int:
    """The code that an error's class stands for (`pipeline.errors.ConfigurationError`: 78), else 1."""
    return int(getattr(error, "exit_code", FAILED))


def _cause(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def _adds_nothing(error: BaseException, sentence: str) -> bool:
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str | bytes):
        return error.strerror in sentence and os.fsdecode(error.filename) in sentence
    return _bare(error) in sentence


def _bare(error: BaseException) -> str:
    """What the error itself says."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{place}{error.strerror}"
    return str(error).strip() or type(error).__name__


def _sentence(error: BaseException) -> str:
    text = _bare(error)
    is_ours = any(kind.__module__.partition(".")[0] in OUR_PACKAGES for kind in type(error).__mro__)
    if is_ours or isinstance(error, OSError) or text == type(error).__name__:
        return text
    return f"{type(error).__name__}: {text}"
