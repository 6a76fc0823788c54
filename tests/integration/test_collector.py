"""Garbage collection beside rows, workers and uploads: what is owned stays, what nobody owns goes."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import datajoint as dj
import pytest
from bson import Binary, ObjectId

from pipeline import owned_objects
from pipeline.collector import Collector, NothingOwned
from pipeline.errors import ConfigurationError
from pipeline.store.errors import ObjectMissing, StoreUnavailable, UploadSwept
from pipeline.store.folder import FolderStore
from pipeline.store.gridfs import GridFSStore
from schemas.checkpoint import Checkpoint
from tests.integration.digits_tasks import insert_tasks, train, training
from trainloom import DatasetConfig, TrainingResult

NO_GRACE = timedelta(0)
MIB = 1 << 20


@pytest.fixture(params=["gridfs", "folder"])
def store_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("TRAINLOOM_STORE", request.param)
    monkeypatch.setenv("TRAINLOOM_STORE_DIR", str(tmp_path / "store"))
    return str(request.param)


@pytest.fixture
def trained(store_kind: str, session: Any) -> Any:
    """A session with a trained task, on each backend and each store."""
    insert_tasks(session, training())
    train()
    return session


@pytest.fixture
def opened(store_kind: str, postgres_session: Any) -> Any:
    """A session with a dataset, whose mirrored file is owned, on each store."""
    insert_tasks(postgres_session, training())
    return postgres_session


def held(session: Any) -> set[str]:
    return {stored.sha256 for stored in session.store.list()}


def put(session: Any, content: bytes) -> str:
    """An object that no row names, old enough for a collection without grace."""
    stored = session.store.put(content, kind="garbage")
    while session.store.now() <= stored.marked:  # clocks of milliseconds
        pass
    return str(stored.sha256)


def test_what_rows_name_stays_and_the_rest_goes(trained: Any) -> None:
    owned = held(trained)
    assert len(owned) >= 5, "dataset, weights, histories and code"
    garbage = {put(trained, bytes([number])) for number in range(5)}
    told: list[str] = []
    dry = Collector(trained).collect(NO_GRACE, each=lambda stored: told.append(stored.sha256))
    assert (dry.freed, dry.deleted, dry.missing) == ({"garbage": (5, 5)}, False, ())
    assert told == sorted(garbage)
    assert held(trained) == owned | garbage, "a dry run changes nothing"
    assert sum(number for number, _ in dry.owned.values()) == len(owned)
    real = Collector(trained).collect(NO_GRACE, delete=True)
    assert (real.freed, real.deleted) == (dry.freed, True)
    assert held(trained) == owned
    assert Collector(trained).collect(NO_GRACE, delete=True).freed == {}


def test_pages_of_rows_are_read_to_the_end(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned_objects, "ROWS", 1)
    assert Collector(trained).collect(NO_GRACE).freed == {}


def test_what_a_deleted_result_leaves_is_freed(trained: Any) -> None:
    before = held(trained)
    kept = (DatasetConfig()).fetch1("dataset_file_sha256")
    TrainingResult().delete()
    assert held(trained) == before, "DataJoint's delete leaves the objects"
    put(trained, b"the clock goes on")
    found = Collector(trained).collect(NO_GRACE, delete=True)
    assert held(trained) == {kept}
    assert set(found.freed) == {"blob", "weights", "garbage"}


def test_a_checkpoint_is_owned_by_its_row(opened: Any) -> None:
    sha256 = put(opened, b"checkpoint")
    task = TrainingResult().key_source.keys()[0]
    row = {
        **task,
        "checkpoint_sha256": sha256,
        "checkpoint_size": 10,
        "checkpoint_epoch": 1,
        "checkpoint_step": 0,
        "checkpoint_code": "0" * 32,
        "checkpoint_attempt": "0" * 32,
    }
    Checkpoint().insert1(row)
    assert Collector(opened).collect(NO_GRACE, delete=True).freed == {}
    assert sha256 in held(opened)
    Checkpoint().delete_quick()
    assert Collector(opened).collect(NO_GRACE, delete=True).freed == {"garbage": (1, 10)}


@pytest.mark.parametrize("form", ["digest", "address", "json", "nested json"])
def test_a_table_that_the_code_does_not_know_owns_too(
    backend: str, open_session: Callable[..., Any], form: str
) -> None:
    session = open_session()
    insert_tasks(session, training())
    owned, garbage = put(session, b"owned"), put(session, b"garbage")

    class LaterTable(dj.Manual):
        definition = """
        name : varchar(16)
        ---
        digest='' : varchar(64)
        address='' : varchar(255)
        anything=null : json
        """

    dj.Schema(session.settings.schema_name, connection=session.connection)(LaterTable)
    value = {
        "digest": {"digest": owned},
        "address": {"address": session.store.address(owned)},
        "json": {"anything": {"sha256": owned}},
        "nested json": {"anything": {"parts": [{"weights": session.store.address(owned)}]}},
    }
    LaterTable().insert1({"name": "one", **value[form]})
    Collector(session).collect(NO_GRACE, delete=True)
    assert owned in held(session)
    assert garbage not in held(session)


def test_values_that_other_schemas_keep_in_the_store_stay(session: Any) -> None:
    """People compute their own tables from results; their schema is not the project's."""
    insert_tasks(session, training())

    class Analysis(dj.Manual):
        definition = """
        name : varchar(16)
        ---
        curve : <stored_blob@external_training_result>
        """

    before = held(session)
    schema = dj.Schema(f"{session.settings.schema_name}_own", connection=session.connection)
    schema(Analysis)
    try:
        Analysis().insert1({"name": "one", "curve": list(range(100))})
        kept = held(session) - before
        garbage = put(session, b"garbage")
        assert len(kept) == 1
        Collector(session).collect(NO_GRACE, delete=True)
        assert held(session) == before | kept
        assert garbage not in held(session)
        assert Analysis().fetch1("curve") == list(range(100))
    finally:
        schema.drop(prompt=False)


# Beside others


def test_what_was_put_within_the_grace_period_is_spared(opened: Any) -> None:
    young = put(opened, b"young")
    found = Collector(opened).collect(timedelta(hours=1), delete=True)
    assert (found.freed, found.young) == ({}, {"garbage": (1, 5)})
    assert young in held(opened)


def test_what_is_put_again_while_the_rows_are_read_stays(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, garbage = put(opened, b"wanted"), put(opened, b"garbage")
    put(opened, b"the clock goes on")
    named = owned_objects.OwnedObjects.named

    def interrupted(self: Any, *args: Any) -> Any:
        yield from named(self, *args)
        opened.store.put(b"wanted")  # its row follows

    monkeypatch.setattr(owned_objects.OwnedObjects, "named", interrupted)
    found = Collector(opened).collect(NO_GRACE, delete=True)
    assert found.renewed == 1
    assert wanted in held(opened)
    assert garbage not in held(opened)


def test_an_object_whose_row_comes_after_the_listing_stays(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = put(opened, b"weights")
    listing = type(opened.store).list

    def then_insert(self: Any) -> Any:
        yield from listing(self)
        task = TrainingResult().key_source.keys()[0]
        common = {"checkpoint_epoch": 1, "checkpoint_step": 0, "checkpoint_code": "", "checkpoint_attempt": ""}
        Checkpoint().insert1({**task, **common, "checkpoint_sha256": sha256, "checkpoint_size": 7})

    monkeypatch.setattr(type(opened.store), "list", then_insert)
    assert Collector(opened).collect(NO_GRACE, delete=True).freed == {}
    monkeypatch.undo()
    assert opened.store.get_bytes(sha256) == b"weights"


@pytest.mark.parametrize("deletions", [0, 1, 3])
def test_a_collection_that_was_broken_off_is_begun_again(
    opened: Any, monkeypatch: pytest.MonkeyPatch, deletions: int
) -> None:
    """Broken off between the deletion of an object's entry and that of its bytes."""
    owned = held(opened)
    for number in range(5):
        put(opened, bytes([number]) * 1000)
    store = opened.store
    done = 0

    def die(*_: Any, **__: Any) -> None:
        nonlocal done
        if done == deletions:
            raise KeyboardInterrupt
        done += 1
        original(*_, **__)

    if isinstance(store, GridFSStore):
        from pipeline.store.gridfs_chunks import Chunks

        original: Any = Chunks.drop
        monkeypatch.setattr(Chunks, "drop", die)
    else:
        import shutil

        original = shutil.rmtree
        monkeypatch.setattr("pipeline.store.folder.shutil.rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        Collector(opened).collect(NO_GRACE, delete=True)
    monkeypatch.undo()
    assert len(held(opened)) == len(owned) + 4 - deletions, "one is out of sight, its bytes are left"
    later = Collector(opened).collect(-timedelta(seconds=2), delete=True)  # chunks count whole seconds
    assert held(opened) == owned
    assert later.freed == ({"garbage": (4 - deletions, 1000 * (4 - deletions))} if deletions < 4 else {})
    assert later.unfinished[0] == 1
    assert Collector(opened).collect(-timedelta(seconds=2)).unfinished == (0, 0)


def test_an_upload_that_is_swept_while_it_runs_publishes_nothing(opened: Any) -> None:
    class Swept(io.BytesIO):
        """A garbage collection comes by near the end of the upload."""

        passes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.passes += self.tell() == 0
            if self.passes == 2 and self.tell() == 19 * MIB:
                Collector(opened).collect(-timedelta(days=1), delete=True)
            return super().read(size)

    before = held(opened)
    content = os.urandom(20 * MIB)
    with pytest.raises((UploadSwept, StoreUnavailable)):
        opened.store.put(Swept(content))
    assert held(opened) == before
    opened.store.put(content)
    assert opened.store.get_bytes(hashlib.sha256(content).hexdigest()) == content


def test_only_old_unfinished_uploads_are_swept(opened: Any) -> None:
    now = datetime.now(UTC)
    for age, name in ((timedelta(hours=2), "old"), (timedelta(minutes=1), "young")):
        _begin_upload(opened.store, now - age, name)
    dry = Collector(opened).collect(timedelta(hours=1))
    assert dry.unfinished == (1, 200)
    assert Collector(opened).collect(timedelta(hours=1), delete=True).unfinished == (1, 200)
    assert Collector(opened).collect(timedelta(0)).unfinished == (1, 200)


def _begin_upload(store: Any, touched: datetime, name: str) -> None:
    """What a process leaves that dies during an upload: bytes, the last of which came at a time."""
    if isinstance(store, GridFSStore):
        upload, younger = ObjectId(), ObjectId.from_datetime(touched)
        older = ObjectId.from_datetime(touched - timedelta(days=2))
        chunks = [{"_id": older, "n": 0}, {"_id": younger, "n": 1}]
        store._root["chunks"].insert_many({**chunk, "files_id": upload, "data": Binary(bytes(100))} for chunk in chunks)
        return
    assert isinstance(store, FolderStore)
    draft = store._unfinished / name
    draft.mkdir()
    (draft / "content").write_bytes(bytes(200))
    for path in (draft / "content", draft):
        os.utime(path, (touched.timestamp(), touched.timestamp()))


# The other direction, and refusals


def test_rows_without_their_object_are_named_and_stay(trained: Any) -> None:
    result = TrainingResult().fetch1()
    address = result["model_save_path"]
    sha256 = address.removeprefix("trainloom://")
    trained.store.delete(sha256)
    history = trained.store.put_all([(b"", "")])  # something unrelated that is there
    assert history
    found = Collector(trained).collect(timedelta(hours=1), delete=True)
    assert {(named.sha256, named.column) for named in found.missing} == {
        (sha256, "model_save_path"),
        (sha256, "artifact_sha256"),
    }
    assert all(named.key["training_task_md5_hash"] == result["training_task_md5_hash"] for named in found.missing)
    assert len(TrainingResult()) == 1
    assert Collector(trained).missing() == found.missing


def test_a_lost_blob_is_named(trained: Any) -> None:
    blobs = [stored.sha256 for stored in trained.store.list() if stored.kind == "blob"]
    trained.store.delete(blobs[0])
    (missing,) = {named.sha256 for named in Collector(trained).missing()}
    assert missing == blobs[0]


def test_a_file_that_was_not_mirrored_is_not_missed(store_kind: str, open_session: Callable[..., Any]) -> None:
    session = open_session(mirror_datasets=False)
    insert_tasks(session, training())
    assert held(session) == set()
    assert Collector(session).collect(NO_GRACE).missing == ()


def test_a_store_that_no_row_owns_is_refused(opened: Any) -> None:
    garbage = put(opened, b"garbage")
    TrainingResult().key_source.keys()
    for table in (dj.FreeTable(opened.connection, name) for name in _tables(opened)):
        table.delete_quick()
    before = held(opened)
    for delete in (False, True):
        with pytest.raises(NothingOwned, match="check that the database is the right one"):
            Collector(opened).collect(NO_GRACE, delete=delete)
    assert held(opened) == before
    assert garbage in before


def _tables(session: Any) -> list[str]:
    from schemas.schema import schema
    from trainloom import TrainingTask

    assert schema.is_activated()
    return [TrainingTask().full_table_name, DatasetConfig().full_table_name]


def test_a_store_of_another_project_is_refused(opened: Any) -> None:
    garbage = put(opened, b"garbage")
    if isinstance(opened.store, GridFSStore):
        marks = opened.store._database[f"{opened.settings.schema_name}.project"]
        marks.update_one({"_id": "project"}, {"$set": {"project_id": "0" * 32}})
    else:
        (opened.store._root / "project").write_text("0" * 32)
    with pytest.raises(ConfigurationError, match="belongs to another project"):
        Collector(opened).collect(NO_GRACE, delete=True)
    assert garbage in held(opened)


def test_a_folder_store_of_another_project_is_not_opened(
    open_session: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINLOOM_STORE", "folder")
    monkeypatch.setenv("TRAINLOOM_STORE_DIR", str(tmp_path / "store"))
    FolderStore(tmp_path / "store").claim("0" * 32)
    with pytest.raises(ConfigurationError, match="belongs to another project"):
        open_session()


def test_the_totals_say_what_is_owned(opened: Any) -> None:
    put(opened, b"garbage")
    owned, unowned = Collector(opened).usage()
    assert unowned == {"garbage": (1, 7)}
    assert owned["dataset"][0] == 1
    with pytest.raises(ObjectMissing):
        opened.store.stat("0" * 64)
