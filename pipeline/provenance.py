"""What made a result: code, packages, machine."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.hashing import content_md5

GIT_TIMEOUT = 5  # s
GIT_COMMIT = "# branch.oid "  # in the second porcelain format of git-status(1)


def record(classes: Mapping[str, Any], git: tuple[str, str], *, numerics: dict[str, Any]) -> dict[str, Any]:
    """The row of `TrainingResult.Provenance`, without its key and what only the training tells: choices and notes.

    Parameters
    ----------
    classes : role (``model``, ``trainer``, …) to class or function.
    git : what `git_state` says of the folder that the code is in.
    """
    code, texts = {}, {}
    for role, cls in classes.items():
        digest, text = module_text(cls.__module__)
        code[role] = {"class": cls.__qualname__, "module": cls.__module__, "sha256": digest}
        texts[digest] = text
    return {
        "git_commit": git[0],
        "git_dirty": git[1],
        "code": code,
        "code_texts": texts,
        "packages": packages(),
        "python_version": platform.python_version(),
        "host": platform.node()[:255],
        "hardware": hardware(),
        "numerics": numerics,
    }


def code_digest(classes: Mapping[str, Any]) -> str:
    """md5 (hex) of the modules that define the classes: trainings of different code are not mixed."""
    return content_md5({role: [cls.__qualname__, *_module_digests(cls.__module__)] for role, cls in classes.items()})


def _module_digests(module: str) -> list[str]:
    """sha256 of a module's file; of all modules of `trainers`, of which a trainer of ours is made, for one of them."""
    package = module.partition(".")[0]
    if package != "trainers":
        return [module_text(module)[0]]
    folder = Path(str(sys.modules[package].__file__)).parent
    return [hashlib.sha256(_text(file).encode()).hexdigest() for file in sorted(folder.glob("*.py"))]


def module_text(module: str) -> tuple[str, str]:
    """sha256 and text of an imported module's file; an empty text where it has none (built in, compiled)."""
    file = getattr(sys.modules.get(module), "__file__", None)
    text = "" if file is None or not file.endswith(".py") else _text(Path(file))
    return hashlib.sha256(text.encode()).hexdigest(), text


def _text(file: Path) -> str:
    status = file.stat()
    return _read(str(file), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _read(file: str, mtime_ns: int, size: int) -> str:
    return Path(file).read_text(encoding="utf-8", errors="replace")


@contextmanager
def git_asked(folder: Path) -> Iterator[Callable[[], tuple[str, str]]]:
    """Ask for `git_state` while something else is done; what is yielded waits for the answer."""
    with ThreadPoolExecutor(1, "git") as background:
        yield background.submit(git_state, folder).result


def git_state(folder: Path) -> tuple[str, str]:
    """Commit and whether the work tree differs from it ("yes", "no", "unknown"); no commit outside a repository or
    without git."""
    # One process instead of two: each costs some milliseconds of every task.
    status = _git(folder, "status", "--porcelain=v2", "--branch", "--no-ahead-behind", "--untracked-files=no")
    if status is None:  # also where the work tree is too large to be compared in time
        return (_git(folder, "rev-parse", "--verify", "HEAD") or "").strip(), "unknown"
    lines = status.splitlines()
    commit = next(line.removeprefix(GIT_COMMIT) for line in lines if line.startswith(GIT_COMMIT))
    if commit == "(initial)":
        return "", "unknown"
    return commit, "no" if all(line.startswith("#") for line in lines) else "yes"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@functools.cache
def packages() -> dict[str, str]:
    """Installed distributions and their versions."""
    found = {distribution.metadata["Name"]: distribution.version for distribution in importlib.metadata.distributions()}
    return {name: version for name, version in sorted(found.items(), key=lambda item: str(item[0])) if name and version}


@functools.cache
def hardware() -> dict[str, Any]:
    """Processor, cores, memory (bytes) and GPUs of this machine."""
    import psutil
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": psutil.virtual_memory().total,
        "gpus": gpus,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
