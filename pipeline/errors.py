"""What can go wrong when the parts are put together."""

from __future__ import annotations


class PipelineError(Exception):
    """The pipeline cannot do what was asked."""


class ConfigurationError(PipelineError, ValueError):
    """A setting, folder or service is not usable as configured; a process ended by it exits with `exit_code`."""

    exit_code = 78  # EX_CONFIG of sysexits.h


class DatabaseUnavailable(PipelineError):
    """No database server answers."""


class SessionError(PipelineError):
    """A session cannot be opened or used this way."""
