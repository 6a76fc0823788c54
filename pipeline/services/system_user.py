"""The unprivileged user that PostgreSQL runs as when root starts it, and a copy of its programs that user can read."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import home
from pipeline.errors import ConfigurationError


def ids() -> tuple[int, int] | None:
    """uid and gid for a server that refuses to run as root, or None where this process is not root."""
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(home.SERVER_USER)
    except KeyError:
        _create()
        user = pwd.getpwnam(home.SERVER_USER)
    if user.pw_uid == 0:
        raise ConfigurationError(f"The user {home.SERVER_USER} is root by another name; {_cure()}.")
    return user.pw_uid, user.pw_gid


def readable_copy(package: Path, libraries: Path, version: str) -> Path:
    """`package` itself where every user can run what is in it, else a copy below `/var/lib/trainloom`, made once.

    Parameters
    ----------
    package
        Folder with the programs of PostgreSQL (`bin`, `lib`, `share`), which they find from where they lie.
    libraries
        Folder of the shared libraries that the programs expect three levels up from `bin`.
    version
        Names the copy; a new version gets a new one.
    """
    program = package / "bin" / "postgres"
    everybody = stat.S_IROTH | stat.S_IXOTH
    if home.reachable_by_others(program.parent) and program.stat().st_mode & everybody == everybody:
        return package
    target = home.SYSTEM_DIR / f"pgsql-{version}"
    inner = Path(package.parent.name) / package.name
    with _lock():
        if not target.exists():
            temporary = target.with_name(f".{target.name}")
            shutil.rmtree(temporary, ignore_errors=True)  # of somebody who was killed; we hold the lock
            ignore = shutil.ignore_patterns("include", "*.a", "pkgconfig")
            shutil.copytree(package, temporary / inner, ignore=ignore)
            shutil.copytree(libraries, temporary / libraries.name)
            _open_to_all(temporary)
            temporary.rename(target)
    return target / inner


def _create() -> None:
    with _lock():
        try:
            pwd.getpwnam(home.SERVER_USER)
        except KeyError:
            pass
        else:
            return  # somebody else made it meanwhile
        program = shutil.which("useradd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if program is None:
            raise ConfigurationError(f"PostgreSQL refuses to run as root and there is no `useradd` here; {_cure()}.")
        options = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        made = subprocess.run([program, *options, home.SERVER_USER], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise ConfigurationError(
                f"PostgreSQL refuses to run as root and the user {home.SERVER_USER} could not be made "
                f"({made.stderr.strip()}); {_cure()}."
            )


def _cure() -> str:
    return (
        f"make a system user named {home.SERVER_USER}, work as an ordinary user, or give the address of a PostgreSQL "
        f"server"
    )


@contextmanager
def _lock() -> Iterator[None]:
    """One change at a time below `SYSTEM_DIR`, by all homes of root."""
    from filelock import FileLock

    try:
        home.SYSTEM_DIR.mkdir(parents=True, exist_ok=True)
        home.SYSTEM_DIR.chmod(0o711)
        with FileLock(home.SYSTEM_DIR / "lock", mode=0o600):
            yield
    except OSError as error:
        raise ConfigurationError(
            f"PostgreSQL refuses to run as root and {home.SYSTEM_DIR} cannot be prepared for another user ({error}); "
            f"{_cure()}."
        ) from error


def _open_to_all(folder: Path) -> None:
    """Let everybody read the copy, whatever the umask it was installed under."""
    for root, _, files in os.walk(folder):
        os.chmod(root, 0o755)
        for name in files:
            path = Path(root, name)
            executable = path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
