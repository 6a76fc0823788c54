"""How a value is written for people: raw, in percent, in a format of one's own, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

RAW, PERCENT, HIDDEN = "raw", "percent", "hidden"
TIERS = ("training_", "validation_", "testing_")


class InvalidFormat(ValueError):
    """A format of a value cannot be used; the message names it."""


class ValueFormats:
    """The formats of values by name, read from texts such as ``accuracy=percent``.

    A name without its tier, such as ``accuracy``, stands for ``validation_accuracy`` and the other tiers too; the whole
    name comes first. A format is ``raw``, ``percent``, ``hidden``, or one of Python's for numbers, such as ``.2e``.
    """

    def __init__(self, assignments: Iterable[str] = ()) -> None:
        """Raises `InvalidFormat` if a text is no assignment or its format is none for numbers."""
        self._formats: Mapping[str, str] = dict(map(_parsed, assignments))

    def is_shown(self, name: str) -> bool:
        """Whether a value is to be seen."""
        return self._of(name) != HIDDEN

    def text(self, name: str, value: float) -> str:
        """The value as it is shown."""
        return _text(value, self._of(name))

    def _of(self, name: str) -> str:
        tier = next((tier for tier in TIERS if name.startswith(tier)), "")
        return self._formats.get(name) or self._formats.get(name.removeprefix(tier), RAW)


def _parsed(assignment: str) -> tuple[str, str]:
    name, equals, chosen = (part.strip() for part in assignment.partition("="))
    if not (name and equals and chosen):
        raise InvalidFormat(f"{assignment!r} gives no value a format; write such as accuracy=percent")
    try:
        _text(1.0, chosen)
    except ValueError:
        raise InvalidFormat(
            f"{chosen!r} is no format for {name}; give raw, percent, hidden, or one of Python's such as .2e"
        ) from None
    return name, chosen


def _text(value: float, chosen: str) -> str:
    if chosen == PERCENT:
        return f"{100 * value:.2f} %"
    return format(float(value), ".4g" if chosen in (RAW, HIDDEN) else chosen)
