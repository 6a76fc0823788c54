"""What puts the parts together: settings, home, services, connection, session, runner, worker, store, results, command
line."""

from __future__ import annotations

from typing import Any

import schemas  # noqa: F401 - sets what DataJoint reads at its import, before any module here imports it


def __getattr__(name: str) -> Any:
    """`connect`, imported when it is first asked for: most of this package is needed by no command."""
    if name != "connect":
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    from .session import connect

    return connect
