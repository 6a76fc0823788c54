"""The embedded servers, started, found, killed and confused for real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pymongo
import pytest

from pipeline import home as home_module
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.home import Home
from pipeline.services import MongoServer, MongoUnavailable, PostgresServer, log_file, mongo, postgres, process
from pipeline.services.process import Server
from tests.other_user import NAME, as_nobody

ROOT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root's servers")

START = """
import signal, sys
from pipeline.home import Home
from pipeline.services import MongoServer, PostgresServer
server = globals()[sys.argv[2]](Home.open(sys.argv[1]))
server.ensure_running()
print(server.status().pid, flush=True)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may pass through, as tmp_path is not."""
    folder = Path(tempfile.mkdtemp(prefix="tl-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def make_home(open_folder: Path) -> Iterator[Callable[[Path], Home]]:
    """Makes homes, in the open folder or elsewhere, whose servers are stopped and whose data is gone at the end."""
    homes: list[Home] = []

    def make(path: Path) -> Home:
        homes.append(Home.create(path))
        return homes[-1]

    yield make
    for home in homes:
        PostgresServer(home).stop()
        MongoServer(home).stop()
        home.erase()


@pytest.fixture
def home(make_home: Callable[[Path], Home], tmp_path: Path) -> Home:
    return make_home(tmp_path / "h")


@pytest.fixture(params=[PostgresServer, MongoServer], ids=["postgres", "mongod"])
def server(request: pytest.FixtureRequest, home: Home) -> Server[Any]:
    return request.param(home)


@pytest.fixture
def sleeper(server: Server[Any]) -> Iterator[subprocess.Popen[bytes]]:
    """An innocent process of the server's user, which works in the server's data folder."""
    server.ensure_running()
    uid, gid = server._owner() or (None, None)
    groups = None if uid is None else []
    with subprocess.Popen(["sleep", "600"], cwd=server.data_dir, user=uid, group=gid, extra_groups=groups) as sleeping:
        yield sleeping
        sleeping.kill()


def pid_of(server: Server[Any]) -> int:
    pid = server.status().pid
    assert pid is not None
    return pid


def kill(server: Server[Any]) -> None:
    """As a crash or the out-of-memory killer would."""
    victim = psutil.Process(pid_of(server))
    victim.kill()
    assert process.wait_until(lambda: process.has_gone(victim), 30)


def write(server: Server[Any]) -> None:
    if isinstance(server, PostgresServer):
        with connect(server) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
            connection.commit()
    else:
        with pymongo.MongoClient[dict[str, int]](server.address.url, w=1, journal=True) as client:
            client["t"]["kept"].insert_one({"n": 42})


def read(server: Server[Any]) -> int:
    if isinstance(server, PostgresServer):
        with connect(server) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT n FROM kept")
            return cursor.fetchone()[0]
    with pymongo.MongoClient[dict[str, int]](server.address.url) as client:
        found = client["t"]["kept"].find_one()
        assert found is not None
        return found["n"]


def connect(server: Server[Any]) -> Any:
    """As DataJoint does: by host, port, user and database."""
    address = server.address
    parts = {"host": str(address.socket_dir), "port": address.port, "user": address.user, "dbname": address.dbname}
    return closing(psycopg2.connect(**parts))


def starter(home: Home, kind: str, more: str = "", **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", START + more, str(home.path), kind],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.feature("N11")
def test_a_server_is_started_found_again_and_stopped(server: Server[Any]) -> None:
    assert not server.status().running and server.status().pid is None
    address = server.ensure_running()
    first = server.status()
    assert first.running and first.version and first.address == address.url
    again = type(server)(Home.open(server.home.path))
    assert again.ensure_running() == address
    assert pid_of(again) == first.pid
    running = psutil.Process(first.pid)
    assert again.stop()
    assert process.has_gone(running)
    assert not server.status().running and not server.stop()


def test_a_server_listens_on_its_private_socket_only(server: Server[Any]) -> None:
    server.ensure_running()
    connections = psutil.Process(pid_of(server)).net_connections("all")
    assert {connection.laddr for connection in connections if connection.laddr} == {str(server.socket)}
    assert server.home.socket_dir.stat().st_mode & 0o777 == 0o700


def test_postgres_is_set_up_for_the_pipeline(home: Home) -> None:
    server = PostgresServer(home)
    server.ensure_running()
    with connect(server) as connection, connection.cursor() as cursor:
        shown = {}
        for name in ("timezone", "server_encoding", "fsync", "listen_addresses", "max_connections"):
            cursor.execute(f"SHOW {name}")
            shown[name] = cursor.fetchone()[0]
        with pytest.raises(psycopg2.errors.UndefinedTable):
            cursor.execute("SELECT 'secret' FROM nowhere")
    assert list(shown.values()) == ["UTC", "UTF8", "on", "", "100"]
    with closing(psycopg2.connect(server.address.url)):
        pass
    log = server.log.path.read_text()
    assert "secret" not in log and "nowhere" not in log


def test_four_starters_at_once_start_one_server(server: Server[Any]) -> None:
    starters = [starter(server.home, type(server).__name__) for _ in range(4)]
    pids = {each.communicate(timeout=120)[0].strip() for each in starters}
    assert pids == {str(pid_of(server))}


def test_a_server_outlives_its_starter_and_its_terminal(server: Server[Any]) -> None:
    with starter(server.home, type(server).__name__, "signal.pause()", start_new_session=True) as command:
        assert command.stdout is not None
        pid = int(command.stdout.readline())
        os.killpg(command.pid, signal.SIGINT)
        os.killpg(command.pid, signal.SIGKILL)
    assert os.getsid(pid) != command.pid
    assert server.is_running() and pid_of(server) == pid


def test_a_server_is_no_child_that_could_become_a_zombie(server: Server[Any]) -> None:
    server.ensure_running()
    assert pid_of(server) not in {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_killed_server_starts_again_with_its_data(server: Server[Any]) -> None:
    server.ensure_running()
    write(server)
    killed = pid_of(server)
    kill(server)
    assert server.status().pid is None  # although its pid file is still there
    assert (server.data_dir / server.pid_file).stat().st_size > 0
    server.ensure_running()
    assert read(server) == 42 and pid_of(server) != killed


def test_a_recycled_pid_is_neither_believed_nor_killed(server: Server[Any], sleeper: subprocess.Popen[bytes]) -> None:
    write(server)
    kill(server)
    for record in (server.data_dir / server.pid_file, server.socket.with_name(f"{server.socket.name}.lock")):
        if record.exists():  # the second is PostgreSQL's, and stops it as well
            lines = record.read_text().split("\n")
            record.write_text("\n".join([str(sleeper.pid), *lines[1:]]))
    assert not server.status().running and not server.stop()
    server.ensure_running()
    assert read(server) == 42 and pid_of(server) != sleeper.pid
    assert sleeper.poll() is None


def test_the_server_of_another_home_is_not_ours(
    server: Server[Any], make_home: Callable[[Path], Home], tmp_path: Path
) -> None:
    other = type(server)(make_home(tmp_path / "other"))
    other.ensure_running()
    server.ensure_running()
    kill(server)
    (server.data_dir / server.pid_file).write_text(f"{pid_of(other)}\n")
    assert not server.stop()
    server.ensure_running()
    assert other.is_running() and pid_of(server) != pid_of(other)


def test_what_outlives_a_killed_server_is_ended_before_the_next(home: Home) -> None:
    server = PostgresServer(home)
    server.ensure_running()
    with connect(server) as busy, connect(server) as watch:
        endless = threading.Thread(target=_run_endless, args=(busy,), daemon=True)
        endless.start()
        with watch.cursor() as cursor:
            watch.autocommit = True
            running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%generate_series%'"
            assert process.wait_until(lambda: cursor.execute(running) or cursor.fetchone()[0] == 2, 30)
        kill(server)
        orphan = psutil.Process(busy.info.backend_pid)
        assert orphan.is_running()
        try:
            server.ensure_running()
            assert process.has_gone(orphan)
        finally:
            with suppress(psutil.NoSuchProcess):
                orphan.kill()
        endless.join()


def _run_endless(connection: Any) -> None:
    with pytest.raises(psycopg2.Error), connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM generate_series(1, 1e12)")


def test_a_moved_home_takes_its_running_server_along(server: Server[Any], tmp_path: Path) -> None:
    server.ensure_running()
    pid = pid_of(server)
    server.home.path.rename(tmp_path / "moved")
    moved = type(server)(Home.open(tmp_path / "moved"))
    try:
        moved.ensure_running()
        assert pid_of(moved) == pid
    finally:
        moved.stop()
        (tmp_path / "moved").rename(server.home.path)


def test_a_server_without_its_socket_is_started_anew(server: Server[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    server.ensure_running()
    lost = pid_of(server)
    server.socket.unlink()
    monkeypatch.setattr(process, "SETTLED", 0.0)
    server.ensure_running()
    assert pid_of(server) != lost


def test_a_very_long_or_unusual_path_works(make_home: Callable[[Path], Home], tmp_path: Path) -> None:
    home = make_home(tmp_path / "a, b" / ("x" * 120) / "ä")
    for server in (PostgresServer(home), MongoServer(home)):
        server.ensure_running()
        write(server)
        assert read(server) == 42


@pytest.mark.parametrize(("theirs", "cure"), [("99", "Trainloom that made it"), ("9", "pg_dump")])
def test_data_of_another_postgres_is_a_sentence(home: Home, theirs: str, cure: str) -> None:
    server = PostgresServer(home)
    server.data_dir.mkdir()
    (server.data_dir / "PG_VERSION").write_text(f"{theirs}\n")
    with pytest.raises(ConfigurationError, match=f"written by PostgreSQL {theirs} and this one is 18.*{cure}"):
        server.ensure_running()


def test_data_of_a_newer_mongod_is_a_sentence(home: Home) -> None:
    server = MongoServer(home)
    server.ensure_running()
    server.stop()
    turtle = server.data_dir / "WiredTiger.turtle"
    turtle.write_text(turtle.read_text().replace("(major=1,", "(major=99,"))
    with pytest.raises(ConfigurationError, match=r"another version of MongoDB than this one, 6\.0.*mongodump"):
        server.ensure_running()


def test_a_killed_initialisation_is_begun_again(home: Home) -> None:
    server = PostgresServer(home)
    half = server.data_dir.with_name("postgres.new")
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    server.ensure_running()
    assert not half.exists()


def test_a_full_disk_is_a_sentence(server: Server[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "FIRST_SPACE", 2**60)
    with pytest.raises(ConfigurationError, match=r"the disk of .* is full .* another disk"):
        server.ensure_running()
    assert not server.data_dir.exists()


def test_the_log_is_bounded_while_the_server_runs(server: Server[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    server.ensure_running()
    monkeypatch.setattr(log_file, "SIZE_LIMIT", 200)
    before = server.log.path.read_bytes()
    server.ensure_running()
    assert server.log.size == 0
    server.stop()  # is logged: the server goes on writing to the same file
    assert 0 < server.log.size < len(before) + 4096 and b"\0" not in server.log.path.read_bytes()
    assert server.log.path.with_name(f"{server.log.path.name}.1").read_bytes() == before


def test_the_servers_do_not_inherit_secrets(server: Server[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJ_PASS", "hunter2")
    server.ensure_running()
    assert "DJ_PASS" not in psutil.Process(pid_of(server)).environ()


def fake_mongod(folder: Path, script: str) -> Path:
    program = folder / "fake-mongod"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (
            "echo 'error while loading shared libraries: libcurl.so.4: cannot open shared object' >&2; exit 127",
            r"libcurl\.so\.4.*apt-get install libcurl4",
        ),
        ("echo 'error while loading shared libraries: libssl.so.3: …' >&2; exit 127", "needs OpenSSL 3"),
        ("kill -ILL $$", "AVX"),
        ("exit 3", "it ended with 3.*address of a MongoDB server"),
    ],
)
def test_a_mongod_that_cannot_run_is_a_sentence_with_the_cure(
    home: Home, tmp_path: Path, script: str, sentence: str
) -> None:
    server = MongoServer(home, program=fake_mongod(tmp_path, script))
    with pytest.raises(MongoUnavailable, match=sentence):
        server.ensure_running()
    assert not server.data_dir.exists() and server.status().version is None


def test_a_missing_mongod_is_a_sentence(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MongoUnavailable, match="No such file"):
        MongoServer(home, program=tmp_path / "none").ensure_running()
    monkeypatch.setattr(mongo, "find_programs", list)
    with pytest.raises(MongoUnavailable, match=r"There is no `mongod`.*pip install"):
        MongoServer(home).ensure_running()


def test_the_next_mongod_is_tried_where_the_first_cannot_run(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = [fake_mongod(tmp_path, "exit 1"), *mongo.find_programs()]
    monkeypatch.setattr(mongo, "find_programs", lambda: programs)
    MongoServer(home).ensure_running()
    assert MongoServer(home).is_running()


@pytest.mark.parametrize(
    ("message", "error", "sentence"),
    [
        ('{"s":"E","msg":"x","attr":{"error":"fdatasync: No space left on device"}}', ConfigurationError, "is full"),
        ('{"s":"F","msg":"Wrong mongod version"}', ConfigurationError, "Wrong mongod version"),
        ("something else", PipelineError, "something else"),
    ],
)
def test_a_server_that_ends_while_it_starts_says_why(
    home: Home, tmp_path: Path, message: str, error: type[Exception], sentence: str
) -> None:
    version = '[ "$1" = --version ] && echo "db version v6.0.5" && exit'
    server = MongoServer(home, program=fake_mongod(tmp_path, f"{version}\necho '{message}'; exit 1"))
    with pytest.raises(error, match=sentence):
        server.ensure_running()


def test_a_missing_postgres_wheel_is_a_sentence(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'trainloom\[embedded\]'"):
        PostgresServer(home).ensure_running()


@needs_root
def test_roots_postgres_runs_as_a_system_user_in_an_open_home(
    open_folder: Path, make_home: Callable[[Path], Home]
) -> None:
    server = PostgresServer(make_home(open_folder / ".trainloom"))
    server.ensure_running()
    assert psutil.Process(pid_of(server)).username() == "trainloom"
    assert server.data_dir.is_relative_to(server.home.path)
    assert open_folder.stat().st_mode & 0o777 == 0o755
    mongod = MongoServer(server.home)
    mongod.ensure_running()
    assert mongod.is_running() and server.is_running()


@needs_root
def test_roots_postgres_works_from_a_closed_environment(
    open_folder: Path, make_home: Callable[[Path], Home], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home_module, "SYSTEM_DIR", open_folder / "system")
    installed = postgres.find_programs().parents[1]
    closed = tmp_path / "site-packages"
    for name in (installed.name, f"{installed.name}.libs"):
        shutil.copytree(installed.with_name(name), closed / name, ignore=shutil.ignore_patterns("*.a", "pginstall"))
    closed.chmod(0o700)
    monkeypatch.setattr(
        postgres, "find_programs", lambda: closed / installed.name / f"pginstall{postgres.MAJOR}" / "bin"
    )
    server = PostgresServer(make_home(tmp_path / "h"))
    server.ensure_running()
    program = Path(psutil.Process(pid_of(server)).exe())
    assert program.is_relative_to(open_folder / "system" / f"pgsql-{server.version}")
    assert server.data_dir.is_relative_to(open_folder)


@needs_root
def test_a_home_that_was_closed_later_is_a_sentence(open_folder: Path, make_home: Callable[[Path], Home]) -> None:
    server = PostgresServer(make_home(open_folder / "a" / ".trainloom"))
    server.ensure_running()
    server.stop()
    (open_folder / "a").chmod(0o700)
    with pytest.raises(ConfigurationError, match=r"who cannot reach .*`chmod o\+x`"):
        server.ensure_running()


@needs_root
def test_an_ordinary_user_runs_both_servers(open_folder: Path) -> None:
    folder = open_folder / "user"
    folder.mkdir()
    shutil.chown(folder, NAME)

    def life() -> list[bool]:
        home = Home.create(folder / "h")
        servers = [PostgresServer(home), MongoServer(home)]
        for server in servers:
            server.ensure_running()
        owned = [psutil.Process(pid_of(server)).username() == NAME for server in servers]
        return [*owned, *(server.stop() for server in servers)]

    assert as_nobody(life) == str([True] * 4)
