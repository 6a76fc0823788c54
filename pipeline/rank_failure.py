"""How a rank of a training on several devices failed."""

from __future__ import annotations

import signal

from .errors import ConfigurationError, PipelineError


class RankFailed(PipelineError):
    """A process of a training on several devices failed."""


class RankLacks(RankFailed, ConfigurationError):
    """A process of a training on several devices lacked something that another worker may have."""


def ended(rank: int, ranks: int, exit_code: int) -> RankFailed:
    """The failure of a rank that ended without a word."""
    how = f"ended with exit code {exit_code}"
    if exit_code < 0:
        how = f"was ended by {signal.Signals(-exit_code).name}"
    if exit_code == -signal.SIGKILL:
        how += "; where nobody sent it, the machine ran out of memory"
    return RankFailed(f"rank {rank} of {ranks} {how}")
