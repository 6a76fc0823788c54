from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pymongo
import pytest

from pipeline.checks import servers
from pipeline.checks.check import Check, Status
from pipeline.cli.main import build_parser
from pipeline.home import Home
from pipeline.services import MongoServer, PostgresServer, mongo
from pipeline.settings import Settings
from tests.conftest import MARIADBD


def found(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in servers.servers(settings)}


@pytest.fixture
def secondary() -> Iterator[str]:
    """The URL of a mongod of a replica set that has no primary yet."""
    with tempfile.TemporaryDirectory(prefix="tl-", dir="/tmp") as folder:
        socket = f"{folder}/m.sock"
        command = [str(mongo.find_programs()[0]), "--dbpath", folder, "--bind_ip", socket, "--port", "0", "--quiet"]
        command += ["--nounixsocket", "--replSet", "rs", "--wiredTigerCacheSizeGB", "0.25"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        url = f"mongodb://{quote(socket, safe='')}/?directConnection=true"
        try:
            with pymongo.MongoClient(url) as client:
                client.admin.command("hello")  # waits until it answers
            yield url
        finally:
            server.kill()
            server.wait()


@pytest.mark.feature("N13")
def test_everything_is_fine_and_nothing_is_left_behind(postgres_session: Any) -> None:
    before = list(postgres_session.store.list())
    checks = found(postgres_session.settings)
    assert {name: check.status for name, check in checks.items()} == dict.fromkeys(
        ("database", "mongodb", "store"), Status.OK
    )
    assert checks["store"].message.endswith("can be written and read")
    assert list(postgres_session.store.list()) == before
    assert postgres_session.connection.is_connected  # an open session stays open


def test_a_folder_store_is_tried_too(open_session: Any, tmp_path: Path) -> None:
    session = open_session(store="folder", store_dir=tmp_path / "store")
    checks = found(session.settings)
    assert "not used" in checks["mongodb"].message
    assert checks["store"].message == f"the folder store {tmp_path / 'store'} can be written and read"


def test_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home.create(tmp_path / ".trainloom")
    checks = found(Settings())
    assert "not running now" in checks["database"].message
    assert "not running now" in checks["mongodb"].message
    assert checks["store"].message.startswith("not tried")
    assert PostgresServer(home).status().pid is None
    assert not home.postgres_dir.exists() and not home.mongo_dir.exists()


def test_no_tables_are_declared(project_environment: dict[str, str], server_home: Home) -> None:
    address = PostgresServer(server_home).ensure_running()
    checks = found(Settings.load())
    assert checks["database"].message.endswith(f"makes the schema {project_environment['TRAINLOOM_PROJECT']}")
    with psycopg2.connect(host=str(address.socket_dir), user=address.user, dbname=address.dbname) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", (Settings.load().schema_name,)
        )
        assert cursor.fetchall() == []
    connection.close()


@pytest.mark.feature("N13")
def test_servers_that_are_away() -> None:
    settings = Settings(database_url="postgresql://u:s3cret@127.0.0.1:1/n", store="folder")
    check = found(settings)["database"]
    assert check.status is Status.FAIL
    assert check.message.startswith("no database answers at 127.0.0.1:1 (Connection refused)")


@pytest.mark.feature("N13")
def test_a_mongodb_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "ANSWER_LIMIT", 0.2)
    check = servers._remote_mongo("mongodb://u:s3cret@127.0.0.1:1/", "n")
    assert (check.status, check.message) == (Status.FAIL, "no MongoDB answers at 127.0.0.1:1")


@pytest.mark.feature("N13")
@pytest.mark.mariadb
@pytest.mark.skipif(not MARIADBD, reason="no mariadbd: install mariadb-server")
def test_a_wrong_database_password(mariadb_url: str) -> None:
    url = mariadb_url.replace("root@", "root:s3cret@")
    check = found(Settings(database_url=url, store="folder"))["database"]
    assert check.status is Status.FAIL
    assert "refuses the connection" in check.message and "check user, password" in check.message
    assert "s3cret" not in check.message


@pytest.mark.feature("N13")
def test_a_wrong_mongodb_password(server_home: Home) -> None:
    url = MongoServer(server_home).ensure_running().url.replace("mongodb://", "mongodb://u:s3cret@")
    check = servers._remote_mongo(url, "n")
    assert (check.status, "refuses the user or the password" in check.message) == (Status.FAIL, True)
    assert "s3cret" not in check.line


@pytest.mark.feature("N13")
def test_a_mongodb_that_is_not_the_primary(secondary: str) -> None:
    check = servers._remote_mongo(secondary, "n")
    assert (check.status, "is not the primary" in check.message) == (Status.FAIL, True)


@pytest.mark.parametrize("url", ["mongodb://u:p/s3cret@h", "postgresql://h/n", "s3cret"])
def test_an_address_that_is_none(url: str) -> None:
    check = servers._remote_mongo(url, "n")
    assert (check.status, check.message) == (Status.FAIL, "mongo_url is no address of a MongoDB server")


@pytest.mark.feature("N13")
def test_a_user_who_may_not_make_the_schema(project_environment: dict[str, str], server_home: Home) -> None:
    address = PostgresServer(server_home).ensure_running()
    role = project_environment["TRAINLOOM_PROJECT"]
    connection = psycopg2.connect(host=str(address.socket_dir), user=address.user, dbname=address.dbname)
    connection.autocommit = True
    connection.cursor().execute(f"CREATE ROLE {role} LOGIN")
    try:
        url = address.url.replace(f"//{address.user}@", f"//{role}@")
        check = found(Settings.load({"database_url": url, "store": "folder"}))["database"]
    finally:
        connection.cursor().execute(f"DROP ROLE {role}")
        connection.close()
    assert (check.status, f"{role} may not make one" in check.message) == (Status.FAIL, True)


def test_the_command_fails_where_a_check_does(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINLOOM_DATABASE_URL", "mysql://u:s3cret@127.0.0.1:1/")
    monkeypatch.setenv("TRAINLOOM_STORE", "folder")
    args = build_parser().parse_args(["doctor"])
    assert args.action(args) == 1
    printed = capsys.readouterr().out
    assert "FAIL  database" in printed and "ok    python" in printed
    assert "s3cret" not in printed

    monkeypatch.setenv("TRAINLOOM_NUM_WORKERS", "-1")
    args = build_parser().parse_args(["doctor"])
    assert args.action(args) == 78
    assert "FAIL  settings   num_workers from the environment" in capsys.readouterr().out
