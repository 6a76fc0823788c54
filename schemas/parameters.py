"""Which parameters a class takes, and how the parameters of a row are bound to them."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

from .errors import InvalidRow, InvalidValue
from .hashing import plain, text_of

REQUIRED = object()
EXACT = (str, int, NoneType)  # types of which equal values are one value
UNRECORDED = object()  # a default that is no plain value (a callable, a tensor): it is left to the class

TRAINER_GIVEN = frozenset(
    {
        "train_dataloader",
        "validation_dataloader",
        "test_dataloader",
        "device",
        "model_class",
        "model_class_params",
        "optimizer_class",
        "optimizer_class_params",
        "criterion_class",
        "criterion_class_params",
        "model_save_path",
        "max_epoch",
    }
)
TRAINER_OFFERED = frozenset(
    {"seed", "initial_weights", "initial_state", "reporter", "checkpoints", "stop", "progress", "scheduler_class"}
)

# What the pipeline itself passes when it builds a class: the first so many positional arguments, and arguments by name.
GIVEN: Mapping[str, tuple[int, frozenset[str]]] = {
    "dataset": (3, frozenset()),
    "sampler": (1, frozenset()),
    "model": (0, frozenset({"input_shape", "output_shape"})),
    "trainer": (0, TRAINER_GIVEN | TRAINER_OFFERED),
    "optimizer": (1, frozenset()),
    "criterion": (0, frozenset()),
    "scheduler": (1, frozenset()),
}


@dataclass(frozen=True)
class Signature:
    """The parameters of a class that a row may set.

    Attributes
    ----------
    label : module and name of the class, for messages.
    defaults : parameter name to its default (plain), `REQUIRED` or `UNRECORDED`.
    tuples : names whose default is a tuple: lists that come back from a row are handed on as tuples.
    open : whether the class takes parameters that its signature does not name (``**kwargs``).
    run : names that cannot change a result; they are never part of a key.
    """

    label: str
    defaults: Mapping[str, Any]
    tuples: frozenset[str]
    open: bool
    run: frozenset[str]

    def is_default(self, name: str, value: Any) -> bool:
        """Whether a plain value is the recorded default of a parameter; 1, 1.0 and True are three values."""
        default = self.recorded.get(name, REQUIRED)
        if type(value) is not type(default) or value != default:
            return False
        # Lists and dicts may hold 1 for 1.0, and 0.0 equals -0.0.
        return isinstance(value, EXACT) or text_of(value) == text_of(default)

    @functools.cached_property
    def recorded(self) -> Mapping[str, Any]:
        """The defaults that a row records, of keyed parameters only."""
        return {
            name: value
            for name, value in self.defaults.items()
            if value is not REQUIRED and value is not UNRECORDED and name not in self.run
        }

    @functools.cached_property
    def required(self) -> frozenset[str]:
        """Parameters without a default."""
        return frozenset(name for name, value in self.defaults.items() if value is REQUIRED)


@dataclass(frozen=True, slots=True)
class Bound:
    """Parameters bound to a signature: `complete` with every recorded default, `sparse` only what differs, `run`
    apart."""

    complete: dict[str, Any]
    sparse: dict[str, Any]
    run: dict[str, Any]


def signature_of(cls: Callable[..., Any], kind: str) -> Signature:
    """The settable parameters of a class of the given kind (a key of `GIVEN`)."""
    label = f"{getattr(cls, '__module__', '?')}.{getattr(cls, '__qualname__', cls)}"
    run = frozenset(getattr(cls, "run_params", ()))
    try:
        parameters = list(inspect.signature(cls).parameters.values())
    except (TypeError, ValueError):  # written in C, without a text signature
        return Signature(label, {}, frozenset(), True, run)
    positional, named = GIVEN[kind]
    defaults: dict[str, Any] = {}
    tuples: set[str] = set()
    for index, parameter in enumerate(parameters):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if index < positional or parameter.name in named or parameter.kind is parameter.POSITIONAL_ONLY:
            continue
        defaults[parameter.name] = _recorded_default(parameter)
        if isinstance(parameter.default, tuple):
            tuples.add(parameter.name)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return Signature(label, defaults, frozenset(tuples), open_ended, run)


def _recorded_default(parameter: inspect.Parameter) -> Any:
    if parameter.default is parameter.empty:
        return REQUIRED
    try:
        return plain(parameter.default)
    except InvalidValue:
        return UNRECORDED


def bind(signature: Signature, params: Mapping[str, Any], path: str, *, lenient: Iterable[str] = ()) -> Bound:
    """Bind the parameters of a row to a signature.

    Parameters
    ----------
    lenient : parameters that something else may supply later (a model's, from the dataset); ``("*",)`` allows any to be
        missing.

    Raises
    ------
    InvalidRow
        If a name is unknown or a required one missing; the message lists what the class takes.
    """
    given = plain(params, path)
    if not isinstance(given, dict):
        raise InvalidRow(f"{path} must be a dict of parameters, not {type(params).__name__}")
    if not signature.open:
        for name in given:
            if name not in signature.defaults:
                raise InvalidRow(_unknown(signature, name, path))
    allowed = frozenset(lenient)
    missing = [name for name in signature.required if name not in given and name not in allowed]
    if missing and "*" not in allowed:
        raise InvalidRow(f"{path} lacks {', '.join(sorted(missing))}, which {signature.label} requires")
    run = {name: given.pop(name) for name in signature.run if name in given}
    sparse = {name: value for name, value in given.items() if not signature.is_default(name, value)}
    return Bound({**signature.recorded, **given}, sparse, run)


def _unknown(signature: Signature, name: str, path: str) -> str:
    close = difflib.get_close_matches(name, signature.defaults, 1)
    hint = (
        f"did you mean {close[0]}?" if close else f"it takes {', '.join(sorted(signature.defaults)) or 'no parameters'}"
    )
    return f"{path} has the unknown parameter {name!r}: {signature.label} does not take it; {hint}"


def arguments(
    signature: Signature, complete: Mapping[str, Any], sparse: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments to build the class with, and the names left out because the class has lost them since.

    Raises
    ------
    InvalidRow
        If the class no longer takes a parameter that the row set to something other than its default.
    """
    result: dict[str, Any] = {}
    lost: list[str] = []
    for name, value in complete.items():
        if name in signature.defaults or signature.open:
            result[name] = tuple(value) if name in signature.tuples and isinstance(value, list) else value
        elif name in sparse:
            raise InvalidRow(
                f"{signature.label} no longer takes the parameter {name!r} that this row sets; "
                "restore the parameter or insert a configuration without it"
            )
        else:
            lost.append(name)
    return result, lost
