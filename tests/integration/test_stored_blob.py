"""Values outside the database: on both database servers, in our own store and in one that people configure."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import schemas  # noqa: F401 - sets what DataJoint reads at its import
from pipeline.services import PostgresServer
from pipeline.store import ObjectDamaged, Store
from pipeline.store.datajoint_adapter import (
    NotAttached,
    NotContentAddressed,
    StoreFileSystem,
    attach,
    detach,
    register,
)
from pipeline.store.errors import StoreError
from pipeline.store.folder import FolderStore
from schemas.stored_blob import StoredBlob, StoredBlobDamaged, StoredBlobMissing, Uploaded, pack
from tests.conftest import BACKENDS

import datajoint as dj  # isort: skip - after `schemas`

VALUE = {"loss": np.linspace(1, 0, 2000), "names": ["a", "b"], "none": None, "when": datetime(2024, 2, 3, 4, 5)}
_numbers = itertools.count()


@pytest.fixture(params=BACKENDS)
def instance(request: pytest.FixtureRequest) -> Iterator[dj.Instance]:
    if request.param == "mariadb":
        port = int(request.getfixturevalue("mariadb_url").rpartition(":")[2])
        server = {"host": "127.0.0.1", "user": "root", "password": "", "port": port, "backend": "mysql"}
    else:
        address = PostgresServer(request.getfixturevalue("server_home")).ensure_running()
        server = {"host": str(address.socket_dir), "user": address.user, "password": "", "backend": "postgresql"}
        server.update(port=address.port, database__name=address.dbname)
    instance = dj.Instance(**server, use_tls=False, loglevel="WARNING", safemode=False)
    yield instance
    instance.connection.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    register()
    store = FolderStore(tmp_path / "store")
    attach("project", store)
    yield store
    detach("project")


TableMaker = Callable[[dict[str, Any]], Any]


@pytest.fixture
def make_table(instance: dj.Instance) -> Iterator[TableMaker]:
    """Declares a table with a history in the given store, in a database schema of its own."""
    declared: list[Any] = []

    def make(spec: dict[str, Any]) -> Any:
        instance.config.stores = {"external_training_result": spec}
        schema = instance.Schema(f"stored_blob_{os.getpid()}_{next(_numbers)}")
        declared.append(schema)

        class History(dj.Manual):
            definition = """
            history_id : int32
            ---
            history : <stored_blob@external_training_result>
            """

        return schema(History)()

    yield make
    for schema in declared:
        schema.drop(prompt=False)


@pytest.fixture
def table(make_table: TableMaker, store: Store) -> Any:
    return make_table({"protocol": "trainloom", "location": "project"})


def stored_bytes(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name != "kind")


@pytest.mark.feature("S17")
def test_a_value_comes_back_from_outside_the_database(table: Any, store: Store) -> None:
    table.insert1({"history_id": 1, "history": VALUE})
    fetched = table.fetch1("history")
    assert np.array_equal(fetched.pop("loss"), VALUE["loss"])
    assert fetched == {key: VALUE[key] for key in ("names", "none", "when")}
    (stored,) = store.list()
    assert stored.kind == "blob"
    row = table.proj(text="CAST(history AS CHAR(500))").fetch1("text").strip()
    assert stored.sha256 in row
    assert len(row) < 500 < stored.size, "the row itself holds only where the value is"


@pytest.mark.feature("S17")
def test_equal_values_of_many_rows_are_one_object(table: Any, store: Store) -> None:
    table.insert({"history_id": number, "history": [1.0, 2.0]} for number in range(5))
    assert len(list(store.list())) == 1
    table.delete()
    assert len(list(store.list())) == 1, "DataJoint removes no object that other rows may name"


@pytest.mark.feature("S17")
def test_a_store_of_ones_own_works_too(make_table: TableMaker, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    table = make_table({"protocol": "file", "location": str(folder)})
    table.insert([{"history_id": number, "history": VALUE} for number in range(2)])
    assert [np.array_equal(value["loss"], VALUE["loss"]) for value in table.to_arrays("history")] == [True, True]
    (path,) = stored_bytes(folder)
    assert len(path.name) == 64
    path.write_bytes(b"other bytes")
    with pytest.raises(StoredBlobDamaged, match=path.name):
        (table & {"history_id": 1}).fetch1("history")
    path.unlink()
    with pytest.raises(StoredBlobMissing, match=path.name):
        (table & {"history_id": 1}).fetch1("history")


def test_a_writer_overtaken_by_another_of_the_same_value_succeeds(
    make_table: TableMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def overtaken(self: Path, target: Path) -> Path:
        monkeypatch.undo()
        rename(self, target)  # by the other process
        return rename(self, target)

    table = make_table({"protocol": "file", "location": str(tmp_path)})
    monkeypatch.setattr(Path, "rename", overtaken)
    table.insert1({"history_id": 1, "history": [1.0, 2.0]})
    assert table.fetch1("history") == [1.0, 2.0]


def test_what_was_uploaded_before_is_only_named(table: Any, store: Store) -> None:
    stored = store.put(pack(VALUE), kind="blob")
    table.insert1({"history_id": 1, "history": Uploaded(stored.sha256, stored.size)})
    table.insert1({"history_id": 2, "history": VALUE})
    assert [row.sha256 for row in store.list()] == [stored.sha256]
    first, second = table.proj("history").to_dicts(order_by="history_id")
    assert repr(first["history"]) == repr(second["history"])


def test_a_damaged_object_is_named(table: Any, store: Store, tmp_path: Path) -> None:
    table.insert1({"history_id": 1, "history": VALUE})
    (stored,) = store.list()
    (path,) = stored_bytes(tmp_path / "store")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ObjectDamaged, match=stored.sha256):
        table.fetch1("history")


def test_a_missing_object_is_named(table: Any, store: Store) -> None:
    table.insert1({"history_id": 1, "history": VALUE})
    (stored,) = store.list()
    store.delete(stored.sha256)
    with pytest.raises(StoredBlobMissing, match=stored.sha256):
        table.fetch1("history")


def test_what_cannot_be_packed_is_not_inserted(table: Any, store: Store) -> None:
    with pytest.raises(dj.DataJointError, match="function"):
        table.insert1({"history_id": 1, "history": [len, lambda: None]})
    assert len(table) == 0
    assert list(store.list()) == []


def test_without_a_session_the_error_says_how_to_open_one(table: Any) -> None:
    table.insert1({"history_id": 1, "history": VALUE})
    detach("project")
    with pytest.raises(NotAttached, match="session = connect"):
        table.fetch1("history")


# Without a database


def test_the_codec_needs_a_store() -> None:
    with pytest.raises(dj.DataJointError, match="requires @"):
        StoredBlob().get_dtype(is_store=False)


def test_only_content_addressed_paths_are_served(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    files = StoreFileSystem(store)
    sha256 = store.put(b"content").sha256
    assert files.cat_file(f"any/where/{sha256}.dat") == b"content"
    assert files.size(sha256) == len(b"content")
    assert files.exists(f"x/{sha256}")
    assert not files.exists("0" * 64)
    assert not files.exists("datajoint_store.json")
    with pytest.raises(NotContentAddressed, match="does not end in the sha256 of what shall be written"):
        files.pipe_file(f"x/{sha256}", b"other content")
    with pytest.raises(NotContentAddressed, match="does not end in a sha256"):
        files.pipe_file("x/../../file.npy", b"content")
    with pytest.raises(NotContentAddressed, match="cannot be opened with mode 'wb'"):
        files.open(f"x/{sha256}", "wb")
    with pytest.raises(StoreError, match="may belong to several rows"):
        files.rm(f"x/{sha256}")
    assert store.get_bytes(sha256) == b"content"
