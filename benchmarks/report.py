"""The measurements as a page: ratios with their intervals, bars and verdicts, versions and machine."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks.comparison import CONFIDENCE, Check, Comparison
from benchmarks.scratch_project import TORCH_THREADS

PACKAGES = ("trainloom", "torch", "lightning", "datajoint", "numpy", "h5py", "psycopg2-binary", "pymongo")

METHOD = f"""\
Each ratio is the median over pairs of runs that took place one right after the other, in alternating order (ABBA),
after one round to warm up; its {CONFIDENCE:.0%} interval is the percentile bootstrap of that median. A bar is *met*
when the whole interval keeps it, *missed* when no part of it does, else *undecided*. Times and rates are medians. The
databases are the embedded ones; a training and the loops beside it have {TORCH_THREADS} torch thread(s)."""


def section(name: str, measures: Sequence[Comparison | Check], load: float) -> str:
    """The results of one benchmark, when and where they were measured; `load` is the load average before it."""
    return "\n\n".join([f"## {title(name)}", _table(measures), _where(load)])


def page(sections: Mapping[str, str]) -> str:
    """A Markdown page of the benchmarks' sections, by title."""
    return (
        "\n\n".join(["# Benchmarks", "Written by `make bench`, benchmark by benchmark.", METHOD, *sections.values()])
        + "\n"
    )


def sections_of(text: str) -> dict[str, str]:
    """The sections of such a page by title."""
    parts = text.split("\n## ")[1:]
    return {part.partition("\n")[0]: f"## {part.strip()}" for part in parts}


def title(name: str) -> str:
    """What the section of a benchmark is called."""
    return name.capitalize().replace("_", " ")


def _table(measures: Sequence[Comparison | Check]) -> str:
    lines = ["| measure | ratio | bar | verdict | pairs | medians |", "|---|---|---|---|---|---|"]
    return "\n".join(lines + [_row(measure) for measure in measures])


def _row(measure: Comparison | Check) -> str:
    if isinstance(measure, Check):
        return f"| {measure.name} | | | {measure.verdict} | | {measure.detail} |"
    low, high = measure.interval
    ours, peer = (_amount(statistics.median(values), measure.unit) for values in (measure.ours, measure.peers))
    cells = [
        measure.name,
        f"{measure.ratio:.3f} ({low:.3f} to {high:.3f})",
        "" if measure.bar is None else str(measure.bar),
        measure.verdict,
        str(len(measure.ratios)),
        f"{ours} / {peer}",
    ]
    return f"| {' | '.join(cells)} |"


def _amount(value: float, unit: str) -> str:
    return f"{value:,.3f} {unit}" if value < 100 else f"{value:,.0f} {unit}"


def _where(load: float) -> str:
    cores = len(os.sched_getaffinity(0))
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load average before the run {load:.1f}"
    machine = f"{_processor()}, {cores} cores, {platform.system()} {platform.release()}"
    return f"{when}; {machine}; Python {platform.python_version()}, {versions}."


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
