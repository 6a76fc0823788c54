"""Runs the script of a task in a child process that ends with its attempt."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import psutil
from pydantic import SecretStr

from schemas.errors import InvalidValue
from schemas.hashing import plain
from schemas.script_result import ScriptOutcome
from schemas.script_task import KEY
from trainers.contract import Stopped

from . import leftover_folders, script_process
from .errors import ConfigurationError, PipelineError
from .home import Home
from .settings import PREFIX, Settings
from .worker import storable

PROGRAM = Path(script_process.__file__)
FOLDER = "trainloom-script"  # what the name of a script's folder begins with
LOOK = 0.1  # s between looks at the child and the lease
LOOK_FOR_LIFE = 2.0  # s between looks at what the child has done: that takes milliseconds
ENDING = 3.0  # s from SIGTERM to SIGKILL
MOST_OUTPUT = 1 << 16  # characters of output that are kept, the last ones
STILL = 1e-3  # s of processor time below which a child has not moved


class ScriptsNotAllowed(ConfigurationError):
    """Script tasks are code out of rows, and this session does not allow them."""


class ScriptFailed(PipelineError):
    """A script raised an error, left no results or was killed."""


class ScriptLacksImport(ScriptFailed, ImportError):
    """A script needs a package that is not installed here: another worker may have it."""


def check_allowed(settings: Settings) -> None:
    """Raise `ScriptsNotAllowed` unless this session may run code that comes out of rows."""
    allowed = settings.allow_scripts if settings.allow_scripts is not None else settings.database is None
    if not allowed:
        raise ScriptsNotAllowed(
            "running script tasks is not allowed here, since whoever can write rows would run code on this machine; "
            "set TRAINLOOM_ALLOW_SCRIPTS=true where you trust all of them"
        )


class ScriptTaskRunner:
    """Runs scripts for one session: each in a fresh Python whose working folder is the session's code folder, with the
    session's settings in its environment."""

    def __init__(self, settings: Settings, home: Home | None, code_dir: Path) -> None:
        self._settings = settings
        self._home = home
        self._code_dir = code_dir

    def run(self, task: Mapping[str, Any], attempt: Any) -> ScriptOutcome:
        """Run one script to its end.

        Raises
        ------
        ScriptsNotAllowed
            If this session runs no scripts.
        ScriptFailed
            If it fails; its traceback and the end of its output are notes of the error.
        Stopped
            If the attempt ends first; the child is killed then.
        """
        check_allowed(self._settings)
        started = time.monotonic()
        leftover_folders.sweep(Path(tempfile.gettempdir()), FOLDER)
        with tempfile.TemporaryDirectory(prefix=leftover_folders.prefix(FOLDER)) as folder:
            self._write_task(Path(folder), task)
            child = self._start(Path(folder))
            tail = _Tail(cast(IO[bytes], child.stdout))
            try:
                if attempt is not None:
                    attempt.stop.polled = True  # we look ourselves, and end the child before anything else
                self._await_end(child, attempt, tail)
            finally:
                _kill(child)
                output = tail.close()
            outcome = _outcome_in(Path(folder))
        label = f"the script {task['script_file_name']}"
        if outcome is None:
            ended = f"was killed by signal {-child.returncode}" if child.returncode < 0 else "ended before its results"
            raise _failed(f"{label} {ended}", "", output, ())
        if "error" in outcome:
            raise _failed(f"{label} failed: {outcome['error']}", outcome["trace"], output, outcome["kinds"])
        results, notes = _kept(outcome["results"], label)
        return ScriptOutcome(results, notes, output, time.monotonic() - started)

    def _write_task(self, folder: Path, task: Mapping[str, Any]) -> None:
        path = folder / (Path(task["script_file_name"]).name or "script.py")
        if path.name in (script_process.TASK, script_process.OUTCOME):
            path = folder / "script.py"
        path.write_text(task["script_text"]["text"], encoding="utf-8")
        content = {
            "parent": os.getpid(),
            "path": str(path),
            "code_dir": str(self._code_dir),
            "globals": {**task["hyper_parameters"], KEY: task[KEY]},
            "result_keys": task["saved_result_keys"],
        }
        (folder / script_process.TASK).write_text(json.dumps(content), encoding="utf-8")

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), str(folder)],  # -P: not our folder, whose names hide Python's own
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._code_dir,
            env={**os.environ, **self._environment(), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # a terminal's interrupt is for the worker; and its processes end as one group
        )

    def _environment(self) -> dict[str, str]:
        """The settings of the session, so that what the script opens is the same project."""
        variables = {} if self._home is None else {"TRAINLOOM_HOME": str(self._home.path)}
        for name in self._settings.model_fields_set:
            value = getattr(self._settings, name)
            if value is not None:
                variables[f"{PREFIX}{name.upper()}"] = _as_text(value)
        return variables

    def _await_end(self, child: subprocess.Popen[bytes], attempt: Any, tail: _Tail) -> None:
        moved: tuple[float, int] = (0.0, 0)
        steps, next_look = 0, 0.0
        while True:
            with suppress(subprocess.TimeoutExpired):
                child.wait(LOOK)
                return
            if attempt is None:
                continue
            if attempt.requested:
                raise Stopped("the attempt ends while its script runs")
            if time.monotonic() < next_look:
                continue
            next_look = time.monotonic() + LOOK_FOR_LIFE
            now = (_processor_seconds(child.pid), tail.length)
            if now[0] > moved[0] + STILL or now[1] > moved[1]:  # a script that hangs loses its lease in the end
                moved, steps = now, steps + 1
                attempt.progress(0, steps)


class _Tail:
    """Reads a child's output in a thread and keeps the end of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = b""
        self.length = 0  # bytes
        self._thread = threading.Thread(target=self._read, name="script-output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        descriptor = self._stream.fileno()
        while piece := os.read(descriptor, 1 << 14):
            self.length += len(piece)
            self._kept = (self._kept + piece)[-MOST_OUTPUT:]

    def close(self) -> str:
        """The end of the output, when the child has ended. Processes that it left behind may hold the stream open."""
        self._thread.join(ENDING)
        if not self._thread.is_alive():
            self._stream.close()
        text = storable(self._kept.decode("utf-8", "replace"))
        return f"[{self.length - len(self._kept)} bytes before this]\n{text}" if self.length > MOST_OUTPUT else text


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End a child and all of its group; politely first."""
    for number, limit in ((signal.SIGTERM, ENDING), (signal.SIGKILL, None)):
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(limit)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # what it left behind


def _processor_seconds(pid: int) -> float:
    """Processor time of a process and its descendants; 0 where it has gone."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))
    return 0.0


def _outcome_in(folder: Path) -> dict[str, Any] | None:
    """What the child has left, None where it was killed before or in the middle of it."""
    try:
        outcome: dict[str, Any] = json.loads((folder / script_process.OUTCOME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return outcome


def _failed(message: str, trace: str, output: str, kinds: Any) -> ScriptFailed:
    error = (ScriptLacksImport if "ImportError" in kinds else ScriptFailed)(message)
    for title, text in (("The script's traceback", trace), ("The end of its output", output)):
        if text:
            error.add_note(f"{title}:\n{text}")
    return error


def _kept(results: Mapping[str, Any], label: str) -> tuple[dict[str, Any], list[str]]:
    """Results as a database holds them; NaN and infinity become None with a note."""
    kept: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in results.items():
        if isinstance(value, float) and not math.isfinite(value):
            kept[name] = None
            notes.append(f"{name} is not finite: {value}")
            continue
        try:
            kept[name] = plain(value, name)
        except InvalidValue as error:
            raise ScriptFailed(f"{label} left a result that cannot be kept: {error}") from error
    return kept, notes


def _as_text(value: Any) -> str:
    """A setting as an environment variable holds it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)
