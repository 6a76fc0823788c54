"""The home of a project: the private folder that holds its servers' data, logs, caches and models."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import mounts
from pipeline.errors import ConfigurationError

FOLDER_NAME = ".trainloom"
HOME_VARIABLE = "TRAINLOOM_HOME"
HOME_FILE = "home.json"
FORMAT = 1

SERVER_USER = "trainloom"
"""The system user that PostgreSQL runs as when root starts it."""
SYSTEM_DIR = Path("/var/lib/trainloom")
"""Where root's servers live when `SERVER_USER` cannot reach the home."""

SOCKET_NAME_MAX = len("/.s.PGSQL.5432")
"""The longest name of a socket below the socket folder, with its slash."""
SOCKET_PATH_MAX = 107
"""Bytes of `sun_path` (unix(7)) less the closing NUL."""
PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+=-]+")
"""Socket folders that need no quoting: a comma separates folders in PostgreSQL and hosts in its clients."""

SERVER_DATA = frozenset({"postgres", "mongo"})
SUBFOLDERS = ("logs", "datasets", "cache", "models", "store")
OWN_NAMES = SERVER_DATA | {HOME_FILE, ".gitignore", "home.lock", *SUBFOLDERS}


@dataclass(frozen=True)
class Host:
    """The machine that a home lives on: `name` for people, `machine` to compare; both survive a reboot."""

    name: str
    machine: str

    @classmethod
    def this(cls) -> Host:
        """The machine this process runs on.

        machine-id(5) is confidential, so a hash is kept. Containers may share the id of their image or have none;
        there the host name, which is theirs alone, tells them apart.
        """
        name = socket.gethostname()
        identity = f"hostname:{name}"
        if not any(os.path.exists(marker) for marker in ("/.dockerenv", "/run/.containerenv")):
            with suppress(OSError, UnicodeDecodeError):  # without a machine-id the host name has to do
                identity = Path("/etc/machine-id").read_text(encoding="ascii").strip() or identity
        return cls(name, hashlib.sha256(f"trainloom:{identity}".encode()).hexdigest()[:32])


@dataclass(frozen=True)
class Home:
    """An opened home. `project_id` is 32 hex digits, `created` an ISO 8601 time in UTC."""

    path: Path
    project_id: str
    host: Host
    created: str
    server_root: Path | None = None
    """Where PostgreSQL's data and the sockets live instead of `path`: root's homes that `SERVER_USER` cannot reach."""

    @classmethod
    def find(cls, start: Path | None = None, env: Mapping[str, str] = os.environ) -> Home | None:
        """The home that `TRAINLOOM_HOME` names, else the nearest `.trainloom` folder upward from `start`.

        Returns None where there is none; never makes one. Raises `ConfigurationError` where it cannot be used.
        """
        named = env.get(HOME_VARIABLE)
        if named:
            folder = _absolute(named)
            return cls.open(folder) if _holds_home(folder) else None
        start = _absolute(start or Path.cwd())
        for folder in (start, *start.parents):
            if _holds_home(folder / FOLDER_NAME):
                return cls.open(folder / FOLDER_NAME)
        return None

    @classmethod
    def create(cls, path: Path | str | None = None, env: Mapping[str, str] = os.environ) -> Home:
        """Make a home and open it; an existing one is opened. Several creators at once get the same home.

        The default place is `TRAINLOOM_HOME`, else `.trainloom` in the working folder.
        """
        from filelock import FileLock  # 40 ms that only the first command of a project pays

        folder = _absolute(path or env.get(HOME_VARIABLE) or Path.cwd() / FOLDER_NAME)
        mounts.refuse_network_share(folder)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_other_owner(folder)
            _refuse_strangers(folder)
            with FileLock(folder / "home.lock", mode=0o600):
                if not (folder / HOME_FILE).exists():
                    _furnish(folder)
        except OSError as error:
            raise ConfigurationError(_not_writable(folder, error.strerror or str(error))) from error
        return cls.open(folder)

    @classmethod
    def open(cls, path: Path | str) -> Home:
        """The home at `path`. Raises `ConfigurationError` where this user or this host cannot use it."""
        folder = _absolute(path)
        if not folder.is_dir():
            raise ConfigurationError(f"There is no home at {folder}; make one with `trainloom init`.")
        _refuse_other_owner(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigurationError(_not_writable(folder, "permission denied or a read-only file system"))
        record = _read_record(folder)
        here = Host.this()
        if record.get("host") is None:
            record["host"] = asdict(here)
            _write_record(folder, record)
        try:
            home = cls(
                path=folder,
                project_id=uuid.UUID(hex=record["project_id"]).hex,
                host=Host(**record["host"]),
                created=record["created"],
                server_root=Path(record["server_root"]) if record.get("server_root") else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(_damaged(folder, f"{type(error).__name__}: {error}")) from error
        if home.host.machine != here.machine:
            raise ConfigurationError(
                f"The home {folder} belongs to the machine {home.host.name}, and only one machine may run its servers; "
                f"work there or name another home in {HOME_VARIABLE} (if the folder has moved to this machine for good "
                f'and nothing runs on the old one, delete the entry "host" from {folder / HOME_FILE}).'
            )
        return home

    def erase(self) -> None:
        """Delete the home and all its data. The servers must have been stopped."""
        for folder in (self.socket_dir, self.server_root, self.path):
            if folder is not None and folder.exists():
                shutil.rmtree(folder)

    @property
    def postgres_dir(self) -> Path:
        return (self.server_root or self.path) / "postgres"

    @property
    def mongo_dir(self) -> Path:
        return self.path / "mongo"

    @property
    def log_dir(self) -> Path:
        return self.path / "logs"

    @property
    def dataset_dir(self) -> Path:
        return self.path / "datasets"

    @property
    def cache_dir(self) -> Path:
        return self.path / "cache"

    @property
    def model_dir(self) -> Path:
        return self.path / "models"

    @property
    def store_dir(self) -> Path:
        return self.path / "store"

    @property
    def socket_dir(self) -> Path:
        """Where the servers' sockets are: in the home, or in `/tmp` where that path is too long or needs quoting."""
        inside = (self.server_root or self.path) / "run"
        fits = len(os.fsencode(inside)) + SOCKET_NAME_MAX <= SOCKET_PATH_MAX
        if fits and PLAIN_PATH.fullmatch(str(inside)):
            return inside
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        return Path(f"/tmp/trainloom-{os.geteuid()}-{digest}")

    def has_private_socket_dir(self) -> bool:
        """Whether the socket folder exists. Raises `ConfigurationError` where anybody else could enter it."""
        folder = self.socket_dir
        try:
            status = folder.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in _own_uids():
            raise ConfigurationError(
                f"The socket folder {folder} is not ours (it belongs to {_user_name(status.st_uid)}), so the servers "
                f"will not use it; have it removed, or name another home in {HOME_VARIABLE}."
            )
        if status.st_mode & 0o077:
            raise ConfigurationError(
                f"Other users can enter the socket folder {folder}; close it with `chmod 700 {folder}`."
            )
        return True

    def make_socket_dir(self, owner: tuple[int, int] | None) -> None:
        """Make the socket folder, 0700, for `owner` (uid, gid; None: this user)."""
        try:
            if not self.has_private_socket_dir():
                with suppress(FileExistsError):  # somebody was faster; the next line says whether that was us
                    self.socket_dir.mkdir(mode=0o700)
                self.has_private_socket_dir()
            if owner is not None:
                os.chown(self.socket_dir, *owner, follow_symlinks=False)
        except OSError as error:
            raise ConfigurationError(
                f"The socket folder {self.socket_dir} cannot be made ({error.strerror}); make room for it, or name "
                f"another home in {HOME_VARIABLE}."
            ) from error


def reachable_by_others(folder: Path) -> bool:
    """Whether a user without rights of their own may pass through `folder` and everything above it."""
    return all(step.stat().st_mode & stat.S_IXOTH for step in (folder, *folder.parents))


def _absolute(path: Path | str) -> Path:
    return Path(path).expanduser().resolve()


def _holds_home(folder: Path) -> bool:
    """Whether `folder` is somebody's home. One that we may not look into counts: opening it says whose it is."""
    try:
        names = set(os.listdir(folder))
    except PermissionError:
        return os.path.isdir(folder)
    except OSError:
        return False
    return HOME_FILE in names or bool(names & SERVER_DATA)


def _furnish(folder: Path) -> None:
    """Fill a new home: closed to others, its record last, so that a home with a record is whole."""
    if not SERVER_DATA.isdisjoint(os.listdir(folder)):
        raise ConfigurationError(_damaged(folder, f"{HOME_FILE} is missing beside the servers' data"))
    folder.chmod(0o700)
    for name in SUBFOLDERS:
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="ascii")
    record: dict[str, Any] = {
        "format": FORMAT,
        "project_id": uuid.uuid4().hex,
        "host": asdict(Host.this()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if os.geteuid() == 0:
        if reachable_by_others(folder.parent):
            folder.chmod(0o711)  # PostgreSQL's user has to pass through; all that lies below stays closed
        else:
            record["server_root"] = str(_make_server_root(record["project_id"]))
    _write_record(folder, record)


def _refuse_strangers(folder: Path) -> None:
    """Refuse to make a home of a folder that is used for something else, such as a whole project by mistake."""
    names = os.listdir(folder)
    strangers = {name for name in names if name not in OWN_NAMES and HOME_FILE not in name}
    if strangers and HOME_FILE not in names:
        raise ConfigurationError(
            f"The folder {folder} holds other files ({min(strangers)}, …), so no home can be made in it; "
            f"name an empty or a new folder."
        )


def _make_server_root(project_id: str) -> Path:
    """A folder for root's PostgreSQL outside the home; named by project, so that a new home finds no old data."""
    root = SYSTEM_DIR / project_id[:12]
    try:
        for folder in (SYSTEM_DIR, root):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o711)
    except OSError as error:
        raise ConfigurationError(
            f"As root, a home in a folder that is closed to others keeps its servers in {SYSTEM_DIR}, which cannot be "
            f"written ({error.strerror}); name an open folder in {HOME_VARIABLE}, or work as an ordinary user."
        ) from error
    return root


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / HOME_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(_damaged(folder, f"{HOME_FILE} is missing")) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(_damaged(folder, str(error))) from error
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise ConfigurationError(_damaged(folder, "it does not say its format"))
    if record["format"] > FORMAT:
        raise ConfigurationError(
            f"The home {folder} was made by a newer Trainloom (format {record['format']}, this one reads {FORMAT}); "
            f"upgrade Trainloom or name another home in {HOME_VARIABLE}."
        )
    return record


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write home.json so that a reader, or a crash, sees the old one or the new one and nothing between."""
    temporary = folder / f".{HOME_FILE}.{uuid.uuid4().hex}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, folder / HOME_FILE)


def _refuse_other_owner(folder: Path) -> None:
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise ConfigurationError(
            f"The home {folder} belongs to the user {_user_name(owner)} and you are {_user_name(os.geteuid())}; "
            f"name a home of your own in {HOME_VARIABLE}."
        )


def _own_uids() -> set[int]:
    """Who may own the socket folder: this user, and for root the user that its PostgreSQL runs as."""
    uids = {os.geteuid()}
    if os.geteuid() == 0:
        with suppress(KeyError):  # that user is made when PostgreSQL first starts
            uids.add(pwd.getpwnam(SERVER_USER).pw_uid)
    return uids


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _not_writable(folder: Path, reason: str) -> str:
    return f"The home {folder} cannot be written ({reason}); make it writable or name another home in {HOME_VARIABLE}."


def _damaged(folder: Path, reason: str) -> str:
    return (
        f"The home {folder} is damaged ({reason}); restore {HOME_FILE} from a backup, or move the folder away and run "
        f"`trainloom init`."
    )
