"""Real servers for the tests: one embedded PostgreSQL and MongoDB and one MariaDB per test process, a project of its
own for each test."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import schemas  # noqa: F401 - sets what DataJoint reads at its import

MARIADBD = shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin")
BACKENDS = [
    "postgresql",
    pytest.param(
        "mariadb",
        marks=[pytest.mark.mariadb, pytest.mark.skipif(not MARIADBD, reason="no mariadbd: install mariadb-server")],
    ),
]

os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """No setting of the person who runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith(("TRAINLOOM_", "DJ_")) and name not in ("DJ_IGNORE_CONFIG_FILE", "DJ_LOG_STREAM"):
            del os.environ[name]
    yield


@pytest.fixture(scope="session")
def server_home() -> Iterator[Any]:
    """A home whose servers run as long as the test process."""
    from pipeline.home import Home
    from pipeline.services import MongoServer, PostgresServer

    folder = Path(tempfile.mkdtemp(prefix="tl-", dir="/tmp"))
    folder.chmod(0o755)
    home = Home.create(folder / "home")
    try:
        yield home
    finally:
        PostgresServer(home).stop()
        MongoServer(home).stop()
        home.erase()
        shutil.rmtree(folder)


class MariaServer:
    """A MariaDB server on a loopback port, with a data folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "tmp").mkdir()  # servers that share one clear away each other's files, the installing one's too
        self._common = ["--no-defaults", f"--datadir={folder}/data", f"--tmpdir={folder}/tmp"]
        install = ["mariadb-install-db", *self._common, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self._port}"

    def ensure_running(self) -> None:
        """Start it if it does not run, and return when it answers; fail with its log when it ends."""
        if self._process is None:
            self._process = self._start()
            threading.Thread(target=self._revive, args=(self._process,), daemon=True).start()
        self._await(self._process)

    def stop(self) -> bool:
        """Kill it; whether it ran."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        return process is not None

    def _start(self) -> subprocess.Popen[bytes]:
        address = [f"--port={self._port}", "--bind-address=127.0.0.1", f"--socket={self._folder}/s"]
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen(
                [str(MARIADBD), *self._common, *address, "--character-set-server=utf8mb4", "--user=root"],
                stdout=log,
                stderr=log,
            )

    def _revive(self, process: subprocess.Popen[bytes]) -> None:
        """Start it again when it crashes, as a service manager does: MariaDB 10.11 reads through a null pointer where a
        connection is killed that just makes a temporary table for its information_schema."""
        while process.wait() == -signal.SIGSEGV and self._process is process:
            process = self._process = self._start()

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        import pymysql

        while True:
            try:
                pymysql.connect(host="127.0.0.1", port=self._port, user="root", password="").close()
                return
            except pymysql.OperationalError:
                try:
                    process.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    continue
                pytest.fail((self._folder / "log").read_text())


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaServer]:
    """A MariaDB server that runs as long as the test process."""
    folder = Path(tempfile.mkdtemp(prefix="tl-maria-", dir="/tmp"))
    server = MariaServer(folder)
    try:
        server.ensure_running()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mariadb_url(mariadb_server: MariaServer) -> str:
    """Where that server is."""
    return mariadb_server.url


@pytest.fixture
def project_environment(server_home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Environment variables of a project of its own on the embedded servers, set in this process too; dropped at
    the end."""
    project = f"t{uuid.uuid4().hex[:12]}"
    variables = {
        "TRAINLOOM_HOME": str(server_home.path),
        "TRAINLOOM_PROJECT": project,
        "TRAINLOOM_DATASET_DIR": str(tmp_path / "datasets"),
        "TRAINLOOM_DATASET_CACHE_DIR": str(tmp_path / "cache"),
        "TRAINLOOM_MODEL_SAVE_DIR": str(tmp_path / "models"),
        "TRAINLOOM_MONGO_DATABASE": project,
        "TRAINLOOM_TORCH_THREADS": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "datasets").mkdir()
    yield variables
    _drop(server_home, project)


def _drop(home: Any, project: str) -> None:
    import psycopg2
    import pymongo

    from pipeline.services import MongoServer, PostgresServer

    if PostgresServer(home).is_running():
        address = PostgresServer(home).address
        connection = psycopg2.connect(
            host=str(address.socket_dir), port=address.port, user=address.user, dbname=address.dbname
        )
        connection.autocommit = True
        connection.cursor().execute(f'DROP SCHEMA IF EXISTS "{project}" CASCADE')
        connection.close()
    if MongoServer(home).is_running():
        with pymongo.MongoClient(MongoServer(home).address.url) as client:
            client.drop_database(project)


@pytest.fixture
def fake_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Kubernetes API server of the test's own; KUBECONFIG leads there."""
    from tests.fake_cluster import FakeCluster

    cluster = FakeCluster()
    cluster.start()
    monkeypatch.setenv("KUBECONFIG", str(cluster.write_kubeconfig(tmp_path / "kubeconfig")))
    try:
        yield cluster
    finally:
        cluster.stop()
    for thread in [thread for thread in threading.enumerate() if thread.name.startswith("watch ")]:
        thread.join(60)
        assert not thread.is_alive(), f"{thread.name} goes on although its cluster has gone"


@pytest.fixture(params=BACKENDS)
def backend(
    request: pytest.FixtureRequest, project_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The test runs once on PostgreSQL and once on MariaDB."""
    if request.param == "mariadb":
        monkeypatch.setenv("TRAINLOOM_DATABASE_URL", request.getfixturevalue("mariadb_url"))
    return str(request.param)


@pytest.fixture
def open_session(project_environment: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Opens sessions on the test's project; the last one is closed at the end."""
    from pipeline import session as door

    opened: list[Any] = []

    def connect(**overrides: Any) -> Any:
        opened.append(door.connect(**overrides))
        return opened[-1]

    yield connect
    for session in opened:
        session.close()
    logging.getLogger("datajoint").setLevel(logging.NOTSET)


@pytest.fixture
def session(backend: str, open_session: Callable[..., Any]) -> Any:
    """An open session, on each backend."""
    return open_session()


@pytest.fixture
def postgres_session(open_session: Callable[..., Any]) -> Any:
    """An open session on the embedded PostgreSQL only."""
    return open_session()
