"""Homes: found, made once, refused with a sentence where they cannot be used."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipeline import home as home_module
from pipeline import mounts
from pipeline.errors import ConfigurationError
from pipeline.home import HOME_FILE, Home, Host
from tests.other_user import as_nobody

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")


@pytest.fixture(autouse=True)
def _system_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's homes put their servers here, and not below /var/lib."""
    monkeypatch.setattr(home_module, "SYSTEM_DIR", tmp_path / "system")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may reach and write, as tmp_path is not."""
    folder = Path(tempfile.mkdtemp(prefix="tl-", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def edit(home: Home, **changes: object) -> None:
    record = json.loads((home.path / HOME_FILE).read_text())
    (home.path / HOME_FILE).write_text(json.dumps(record | changes))


def test_a_new_home_is_private_and_ignored_by_git(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "project" / ".trainloom")
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in home.path.iterdir() if folder.is_dir())
    assert (home.path / ".gitignore").read_text() == "*\n"
    assert len(home.project_id) == 32
    assert home.host == Host.this()


def test_making_a_home_again_opens_it(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h")
    home.socket_dir.mkdir(parents=True)
    (home.path / "start-postgres.lock").touch()
    assert Home.create(tmp_path / "h") == home


def test_creators_at_once_make_one_home(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        homes = list(pool.map(Home.create, [tmp_path / "h"] * 8))
    assert len({home.project_id for home in homes}) == 1
    homes[0].erase()  # other processes do not see our SYSTEM_DIR


def test_the_nearest_home_upward_is_found(tmp_path: Path) -> None:
    outer = Home.create(tmp_path / ".trainloom")
    inner = Home.create(tmp_path / "a" / ".trainloom")
    (tmp_path / "a" / "b").mkdir()
    (tmp_path / "a" / "b" / ".trainloom").mkdir()  # empty, so no home
    assert Home.find(tmp_path / "a" / "b", env={}) == inner
    assert Home.find(tmp_path, env={}) == outer


def test_the_environment_names_a_home(tmp_path: Path) -> None:
    Home.create(tmp_path / ".trainloom")
    named = tmp_path / "named"
    env = {"TRAINLOOM_HOME": str(named)}
    assert Home.find(tmp_path, env) is None
    assert not named.exists()
    assert Home.create(env=env) == Home.find(tmp_path, env)


def test_without_a_home_none_is_found_or_made(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert Home.find(tmp_path / "a", env={"TRAINLOOM_HOME": str(tmp_path / "b")}) is None
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_default_place_is_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Home.create(env={}).path == tmp_path / ".trainloom"


def test_a_folder_in_use_is_not_made_a_home(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigurationError, match=r"thesis\.tex.*empty or a new folder"):
        Home.create(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', "{", '{"format": 1, "project_id": 7, "host": {}}'])
def test_a_damaged_record_is_a_sentence(tmp_path: Path, text: str) -> None:
    home = Home.create(tmp_path / "h")
    (home.path / HOME_FILE).write_text(text)
    with pytest.raises(ConfigurationError, match="is damaged"):
        Home.open(home.path)


def test_data_without_a_record_is_not_taken_for_a_new_home(tmp_path: Path) -> None:
    home = Home.create(tmp_path / ".trainloom")
    home.mongo_dir.mkdir()
    (home.path / HOME_FILE).unlink()
    for call in (lambda: Home.create(home.path), lambda: Home.find(tmp_path, env={})):
        with pytest.raises(ConfigurationError, match=r"damaged \(home.json is missing"):
            call()


def test_a_home_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h")
    edit(home, format=2)
    with pytest.raises(ConfigurationError, match="newer Trainloom"):
        Home.open(home.path)


def test_a_home_of_another_machine_is_refused_until_it_is_taken_over(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h")
    edit(home, host={"name": "gpu7", "machine": "0" * 32})
    with pytest.raises(ConfigurationError, match="belongs to the machine gpu7"):
        Home.open(home.path)
    edit(home, host=None)
    assert Home.open(home.path) == home
    assert json.loads((home.path / HOME_FILE).read_text())["host"]["name"] == home.host.name


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "lustre"])
def test_a_network_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    share = tmp_path / "a share"
    local = tmp_path / "a share" / "disk"
    table = tmp_path / "mounts"
    escaped = str(share).replace(" ", r"\040")
    table.write_text(
        f"/dev/sda / ext4 rw 0 0\nserver:/x {escaped} {kind} rw 0 0\n/dev/sdb {escaped}/disk ext4 rw 0 0\n"
    )
    monkeypatch.setattr(mounts, "MOUNT_TABLE", table)
    with pytest.raises(ConfigurationError, match=f"network share \\({kind}\\)"):
        Home.create(share / "h")
    assert not share.exists()
    assert Home.create(local / "h")


def test_a_short_plain_path_keeps_its_sockets_and_others_use_tmp(tmp_path: Path) -> None:
    homes = [
        Home(tmp_path / name, "0" * 32, Host.this(), "") for name in ("short", "x" * 120, "a,b", "a b", "ä", "a:b")
    ]
    inside = [home.socket_dir.is_relative_to(home.path) for home in homes]
    assert inside == [True, False, False, False, False, False]
    assert len({home.socket_dir for home in homes}) == len(homes)
    assert all(len(bytes(home.socket_dir / ".s.PGSQL.5432")) <= 107 for home in homes)


@pytest.mark.parametrize("length", range(85, 100))
def test_the_longest_socket_fits(length: int) -> None:
    home = Home(Path("/" + "x" * (length - 1)), "0" * 32, Host.this(), "")
    assert len(bytes(home.socket_dir / ".s.PGSQL.5432")) <= 107
    assert home.socket_dir.is_relative_to(home.path) == (length <= 107 - len("/run/.s.PGSQL.5432"))


@pytest.fixture
def long_home(tmp_path: Path) -> Iterator[Home]:
    home = Home.create(tmp_path / ("x" * 120))
    yield home
    if home.socket_dir.is_symlink():
        home.socket_dir.unlink()
    elif home.socket_dir.exists():
        home.socket_dir.rmdir()


@pytest.fixture
def far_home(long_home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home whose socket folder is in /tmp, for root as well."""
    home = Home(long_home.path, long_home.project_id, long_home.host, long_home.created)
    assert home.socket_dir.parent == Path("/tmp")
    return home


def test_the_socket_folder_is_made_private(far_home: Home) -> None:
    assert not far_home.has_private_socket_dir()
    far_home.make_socket_dir(None)
    assert far_home.has_private_socket_dir()
    assert far_home.socket_dir.stat().st_mode & 0o777 == 0o700
    far_home.socket_dir.rmdir()


def test_a_socket_folder_that_others_can_enter_is_refused(far_home: Home) -> None:
    far_home.socket_dir.mkdir()
    far_home.socket_dir.chmod(0o755)
    try:
        with pytest.raises(ConfigurationError, match=r"Other users can enter.*chmod 700"):
            far_home.make_socket_dir(None)
    finally:
        far_home.socket_dir.rmdir()


def test_a_socket_folder_that_is_a_link_is_refused(far_home: Home, tmp_path: Path) -> None:
    (tmp_path / "trap").mkdir(mode=0o700)
    far_home.socket_dir.symlink_to(tmp_path / "trap")
    try:
        with pytest.raises(ConfigurationError, match="is not ours"):
            far_home.make_socket_dir(None)
    finally:
        far_home.socket_dir.unlink()


@needs_root
def test_a_socket_folder_of_somebody_else_is_refused(far_home: Home) -> None:
    far_home.socket_dir.mkdir(mode=0o700)
    shutil.chown(far_home.socket_dir, "nobody")
    try:
        with pytest.raises(ConfigurationError, match=r"is not ours \(it belongs to nobody\)"):
            far_home.has_private_socket_dir()
    finally:
        far_home.socket_dir.rmdir()


@needs_root
def test_a_home_of_another_user_is_refused(shared: Path) -> None:
    Home.create(shared / ".trainloom")
    told = as_nobody(lambda: Home.find(shared, env={}))
    assert "ConfigurationError" in told and "belongs to the user root and you are nobody" in told
    assert as_nobody(lambda: Home.create(shared / "mine").path) == str(shared / "mine")
    with pytest.raises(ConfigurationError, match="belongs to the user nobody and you are root"):
        Home.open(shared / "mine")


@needs_root
def test_a_folder_that_cannot_be_written_is_a_sentence(shared: Path) -> None:
    (shared / "closed").mkdir(mode=0o755)
    told = as_nobody(lambda: Home.create(shared / "closed" / "h"))
    assert "ConfigurationError" in told and "cannot be written (Permission denied)" in told
    as_nobody(lambda: Home.create(shared / "h").path.chmod(0o500))
    assert "cannot be written" in as_nobody(lambda: Home.open(shared / "h"))


@needs_root
def test_roots_home_in_an_open_folder_lets_the_servers_user_pass(shared: Path) -> None:
    shared.chmod(0o755)
    home = Home.create(shared / ".trainloom")
    assert home.server_root is None
    assert home.path.stat().st_mode & 0o777 == 0o711
    assert shared.stat().st_mode & 0o777 == 0o755
    assert (home.path / HOME_FILE).stat().st_mode & 0o077 == 0


@needs_root
def test_roots_home_in_a_closed_folder_has_its_servers_elsewhere(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    home = Home.create(closed / ".trainloom")
    assert home.server_root == tmp_path / "system" / home.project_id[:12]
    assert Home.open(home.path).postgres_dir == home.server_root / "postgres"
    assert closed.stat().st_mode & 0o777 == 0o700
    home.erase()
    assert not home.server_root.exists() and not home.path.exists()
