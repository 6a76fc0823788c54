"""How long the command line takes to say anything, and what it must not load for that."""

from __future__ import annotations

import re
import subprocess
import sys
import time

from benchmarks.comparison import Check, Comparison, Program, interleave
from benchmarks.scratch_project import COMMAND

HEAVY = frozenset({"torch", "datajoint"})
IMPORT_TIME = re.compile(r"^import time:.*\|\s*(\S+)$", re.MULTILINE)
"""A line of `python -X importtime`; its last column is the module."""


def measure(pairs: int) -> list[Comparison | Check]:
    """Compare `trainloom --help` with a Python that does nothing."""
    programs: dict[str, Program] = {
        "help": lambda _: _seconds(str(COMMAND), "--help"),
        "nothing": lambda _: _seconds(sys.executable, "-c", "pass"),
    }
    seconds = interleave(programs, pairs)
    return [
        Comparison("`trainloom --help` / `python -c pass`", seconds["help"], seconds["nothing"], "s"),
        _heavy_modules(),
    ]


def _seconds(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _heavy_modules() -> Check:
    command = [sys.executable, "-X", "importtime", str(COMMAND), "--help"]
    done = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    modules = set(IMPORT_TIME.findall(done.stderr))
    loaded = sorted(HEAVY & modules)
    detail = f"loads {' and '.join(loaded)}" if loaded else f"{len(modules)} modules, neither of them"
    return Check("`trainloom --help` loads neither torch nor datajoint", "argparse" in modules and not loaded, detail)
