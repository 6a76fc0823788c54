"""What was found of one part."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a part is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """What was found of one part; `cure` says what to do, where `message` does not say it itself."""

    name: str
    status: Status
    message: str
    cure: str = ""

    @property
    def line(self) -> str:
        """The check on one line."""
        mark = "FAIL" if self.status is Status.FAIL else str(self.status)
        text = f"{self.message.rstrip('.')}; {self.cure}" if self.cure else self.message
        return f"{mark:<4}  {self.name:<9}  {' '.join(text.split())}"


def ok(name: str, message: str) -> Check:
    """Nothing is wrong."""
    return Check(name, Status.OK, message)


def warn(name: str, message: str, cure: str = "") -> Check:
    """Work goes on, but not as well as it could, or will stop."""
    return Check(name, Status.WARN, message, cure)


def fail(name: str, message: str, cure: str = "") -> Check:
    """Work cannot go on."""
    return Check(name, Status.FAIL, message, cure)
