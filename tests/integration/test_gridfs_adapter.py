"""DataJoint's external store over GridFS: values go in through a table and come out again, verified."""

from __future__ import annotations

import hashlib
from typing import Any

import datajoint as dj
import numpy as np
import pymongo
import pytest
from datajoint.errors import DataJointError
from datajoint.hash_registry import get_store_backend

from pipeline.store import datajoint_adapter
from pipeline.store.datajoint_adapter import NotContentAddressed
from pipeline.store.errors import StoreError, StoreUnavailable
from pipeline.store.gridfs import GridFSStore
from schemas.stored_blob import StoredBlobDamaged, StoredBlobMissing
from schemas.training_result import EXTERNAL_STORE


@pytest.fixture
def curves(session: Any) -> Any:
    """A table of a person's own whose values lie in the project's store, in GridFS."""
    assert isinstance(session.store, GridFSStore)

    class Curve(dj.Manual):
        definition = """
        name : varchar(16)
        ---
        curve : <stored_blob@external_training_result>
        """

    dj.Schema(session.settings.schema_name, connection=session.connection)(Curve)
    return Curve()


@pytest.mark.feature("S17")
def test_values_come_back_and_equal_ones_are_one_object(curves: Any, session: Any) -> None:
    values = {"array": np.arange(300_000.0), "names": ["a", "b"], "nothing": None}
    curves.insert([{"name": "one", "curve": values}, {"name": "two", "curve": values}])
    (stored,) = session.store.list()
    assert stored.kind == "blob"
    for name in ("one", "two"):
        found = (curves & {"name": name}).fetch1("curve")
        np.testing.assert_array_equal(found["array"], values["array"])
        assert (found["names"], found["nothing"]) == (["a", "b"], None)


def test_damage_and_loss_are_errors_of_their_own(curves: Any, session: Any) -> None:
    curves.insert1({"name": "one", "curve": np.arange(1000)})
    (stored,) = session.store.list()
    chunks = session.store._root["chunks"]
    chunk = chunks.find_one({})
    chunks.update_one({"_id": chunk["_id"]}, {"$set": {"data": chunk["data"][::-1]}})
    with pytest.raises((StoredBlobDamaged, StoreError, DataJointError), match=stored.sha256):
        curves.fetch1("curve")
    session.store.delete(stored.sha256)
    with pytest.raises(StoredBlobMissing, match=stored.sha256):
        curves.fetch1("curve")


def test_the_file_system_says_what_is_there(session: Any) -> None:
    files = get_store_backend(EXTERNAL_STORE, config=session.connection._config).fs
    content = bytes(range(256)) * 5000
    sha256 = hashlib.sha256(content).hexdigest()
    path = f"any/{sha256[:2]}/{sha256}"
    assert not files.exists(path)
    files.pipe_file(path, content)
    files.pipe_file(path, content)
    assert files.exists(path)
    assert files.info(path)["size"] == len(content)
    assert files.cat_file(path) == content
    assert files.cat_file(path, 5, 9) == content[5:9]
    with files.open(path) as stream:
        assert stream.read() == content
    assert files.created(path) == session.store.stat(sha256).created
    with pytest.raises(NotContentAddressed, match="does not end in the sha256"):
        files.pipe_file(path, content + b"!")
    with pytest.raises(StoreError, match="garbage collection"):
        files.rm_file(path)
    with pytest.raises(FileNotFoundError):
        files.cat_file(path.replace(sha256, "0" * 64))
    assert len(list(session.store.list())) == 1


def test_a_server_away_is_no_missing_file() -> None:
    client: pymongo.MongoClient[Any]
    with pymongo.MongoClient("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100") as client:
        files = datajoint_adapter.StoreFileSystem(GridFSStore(lambda: client["none"]))
        with pytest.raises(StoreUnavailable):
            files.exists("0" * 64)
