"""Examples become documents: all of them once, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymongo.errors import AutoReconnect

from datasets_impl.mongo_access import ExamplesUnavailable, borrow, lend
from pipeline.data_import import Imported, import_examples
from pipeline.import_documents import ImportFailed
from pipeline.imported_data import imported
from pipeline.mongo_database import MongoDatabase
from tests.integration.mongo_examples import PROJECT, examples, lent_database

COUNT = 2_500  # three batches


@pytest.fixture
def mongo(server_home: Any, tmp_path: Path) -> Iterator[MongoDatabase]:
    with lent_database(server_home, tmp_path / "blocks") as mongo:
        yield mongo


def documents(mongo: MongoDatabase, key: str = "numbers") -> list[dict[str, Any]]:
    return list(mongo.database()[f"{PROJECT}.data.{key}"].find().sort("_id"))


@pytest.mark.feature("N5")
def test_documents_hold_typed_arrays_and_what_they_belong_to(mongo: MongoDatabase) -> None:
    told: list[tuple[int, int | None]] = []
    done = import_examples(
        examples(COUNT), "numbers", count=COUNT, source="made up", told=lambda *numbers: told.append(numbers)
    )
    assert (done.name, done.count, done.new) == ("mongo:numbers", COUNT, COUNT)
    found = documents(mongo)
    assert [document["_id"] for document in found] == list(range(COUNT))
    last = found[-1]
    values = np.frombuffer(last["inputs"]["data"], "<f4")
    np.testing.assert_array_equal(values, examples(COUNT)[-1]["inputs"])
    assert (last["inputs"]["dtype"], last["inputs"]["shape"], last["targets"]) == (
        "<f4",
        [3],
        examples(COUNT)[-1]["targets"],
    )
    assert (last["dataset"], last["version"], last["number"], last["count"]) == ("numbers", "", COUNT - 1, COUNT)
    (row,) = imported()
    assert (row["state"], row["count"], row["sha256"], row["source"]) == ("complete", COUNT, done.sha256, "made up")
    assert row["fields"] == {"inputs": "<f4 of shape [3]", "targets": "int64", "tier": "str"}
    assert last["time"] == row["time"]
    assert told[-1] == (COUNT, COUNT)


def test_the_count_of_a_generator_is_written_at_its_end(mongo: MongoDatabase) -> None:
    import_examples(iter(examples(COUNT)), "numbers")
    assert {document["count"] for document in documents(mongo)} == {COUNT}


@pytest.mark.feature("N5")
def test_running_it_again_makes_no_doubles_and_other_content_needs_a_version(mongo: MongoDatabase) -> None:
    first = import_examples(examples(COUNT), "numbers")
    assert import_examples(examples(COUNT), "numbers") == Imported(first.name, COUNT, first.sha256, 0)
    before = documents(mongo)
    for other in (examples(COUNT, seed=1), examples(COUNT - 1), examples(COUNT + 1)):
        with pytest.raises(ImportFailed, match="numbers was imported with other examples.* --version"):
            import_examples(other, "numbers")
    assert documents(mongo) == before
    second = import_examples(examples(COUNT, seed=1), "numbers", version="2")
    assert (second.name, second.new) == ("mongo:numbers@2", COUNT)
    assert [row["_id"] for row in imported()] == ["numbers", "numbers@2"]
    assert documents(mongo) == before


def test_documents_that_were_lost_are_written_again(mongo: MongoDatabase) -> None:
    import_examples(examples(COUNT), "numbers", count=COUNT)
    before = documents(mongo)
    mongo.database()[f"{PROJECT}.data.numbers"].delete_many({"_id": {"$gte": 1500, "$lt": 1503}})
    assert import_examples(examples(COUNT), "numbers", count=COUNT).new == 3
    assert documents(mongo) == before


KILLED = """
import sys
from pydantic import SecretStr
from datasets_impl import mongo_access
from pathlib import Path
from pipeline.data_import import import_examples
from pipeline.mongo_database import MongoDatabase
from tests.integration.mongo_examples import PROJECT, examples

def some():
    for number, example in enumerate(examples(2500)):
        if number == 2200:
            print("here", flush=True)
            sys.stdin.read()
        yield example

mongo_access.lend(MongoDatabase(SecretStr(sys.argv[1]), sys.argv[2], PROJECT, Path("/nowhere"), 0, 20.0, 500))
import_examples(some(), "numbers")
"""


@pytest.mark.slow  # the process that is killed loads torch
def test_an_import_that_was_killed_is_no_dataset_and_goes_on(mongo: MongoDatabase) -> None:
    command = [sys.executable, "-c", KILLED, mongo.url.get_secret_value(), mongo.database_name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        collection = mongo.database()[f"{PROJECT}.data.numbers"]
        while collection.count_documents({}) < 2000:  # batches are on their way
            pass
        process.send_signal(signal.SIGKILL)
    assert [row["state"] for row in imported()] == ["importing"]
    with pytest.raises(ImportFailed, match="example 0 is the first to differ"):
        import_examples(examples(2500, seed=1), "numbers")
    assert collection.count_documents({}) == 2000
    done = import_examples(examples(2500), "numbers")
    assert (done.count, done.new) == (2500, 500)
    assert {document["count"] for document in documents(mongo)} == {2500}
    assert [row["state"] for row in imported()] == ["complete"]


def broken() -> Iterator[dict[str, Any]]:
    yield from examples(COUNT)
    raise RuntimeError("the source broke")


def with_one(number: int, **fields: Any) -> list[dict[str, Any]]:
    made = examples(COUNT)
    made[number] = {**made[number], **fields}
    return made


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "there are no examples"),
        (
            with_one(2100, inputs=np.zeros(4, "f4")),
            "'inputs' of example 2100 is <f4 of shape \\[4\\].* <f4 of shape \\[3\\]",
        ),
        (with_one(2100, inputs=np.zeros(3)), "'inputs' of example 2100 is <f8 of shape \\[3\\]"),
        (with_one(2100, targets=0.5), "'targets' of example 2100 is float, that of the first example int64"),
        (with_one(2100, more=1), "'more' of example 2100 is int64, that of the first example missing"),
        (with_one(2100, inputs=np.array([None])), "field 'inputs' of example 2100 has dtype object"),
        (with_one(0, inputs={1, 2}), "example 0 cannot be a document"),
        (with_one(0, _id=5), "example 0 has a field '_id'"),
        (with_one(0, **{"a.b": 5}), "example 0 has a field 'a.b'"),
        ([1], "example 0 is a int; give a dict"),
        ([{"x": np.zeros(1 << 21)}], "example 0 has 16777.* bytes, more than a document can hold"),
    ],
)
def test_what_is_unsuitable_leaves_nothing_behind(mongo: MongoDatabase, wrong: Any, message: str) -> None:
    with pytest.raises(ImportFailed, match=message):
        import_examples(wrong, "numbers")
    assert (documents(mongo), imported()) == ([], [])
    assert f"{PROJECT}.data.numbers" not in mongo.database().list_collection_names()


def test_a_source_that_breaks_leaves_an_interrupted_import_as_it_was(mongo: MongoDatabase) -> None:
    import_examples(examples(1000), "numbers")
    mongo.database()[f"{PROJECT}.data"].update_one({"_id": "numbers"}, {"$set": {"state": "importing"}})
    before = documents(mongo), imported()
    with pytest.raises(RuntimeError, match="the source broke"):
        import_examples(broken(), "numbers")
    assert (documents(mongo), imported()) == before


def test_examples_that_were_announced_have_to_come(mongo: MongoDatabase) -> None:
    with pytest.raises(ImportFailed, match="11 examples were announced, but 10 came"):
        import_examples(examples(10), "numbers", count=11)
    assert (documents(mongo), imported()) == ([], [])


@pytest.mark.parametrize("name", ["", "a b", "a@b", "../a", "$a", "a" * 65])
def test_names_are_plain(mongo: MongoDatabase, name: str) -> None:
    with pytest.raises(ImportFailed, match="the name .* of a dataset is made of letters"):
        import_examples(examples(10), name)


def test_an_answer_that_was_lost_makes_no_doubles(mongo: MongoDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymongo.collection import Collection

    insert_many, lost = Collection.insert_many, []

    def losing(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = insert_many(self, *args, **kwargs)
        if not lost:
            lost.append(1)
            raise AutoReconnect("connection closed")
        return done

    monkeypatch.setattr(Collection, "insert_many", losing)
    assert import_examples(examples(COUNT), "numbers").count == COUNT
    assert lost
    assert len(documents(mongo)) == COUNT


def test_two_at_once_make_one_dataset(mongo: MongoDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find nothing, and each meets documents of the other."""

    def interrupted() -> Iterator[dict[str, Any]]:
        for number, example in enumerate(examples(COUNT)):
            if number == 100:
                import_examples(examples(COUNT), "numbers")
            yield example

    assert import_examples(interrupted(), "numbers").count == COUNT
    assert len(documents(mongo)) == COUNT
    assert [row["state"] for row in imported()] == ["complete"]


def test_a_server_that_stays_away_is_told_without_secrets(tmp_path: Path) -> None:
    from pydantic import SecretStr

    away = MongoDatabase(
        SecretStr("mongodb://someone:s3cret@127.0.0.1:9/?authSource=x"), "d", PROJECT, tmp_path, 0, 0.2, 100
    )
    assert "s3cret" not in repr(away) + away.name
    lend(away)
    try:
        with pytest.raises(ExamplesUnavailable, match="someone:\\*\\*\\*@127.0.0.1.* did not answer for 0.2 s"):
            import_examples(examples(10), "numbers")
    finally:
        lend(None)
        away.close()


def test_without_mongodb_this_is_said() -> None:
    lend(None, "objects are kept in a folder")
    with pytest.raises(ExamplesUnavailable, match="cannot be used: objects are kept in a folder"):
        borrow()
    lend(None)
    with pytest.raises(ExamplesUnavailable, match="no session is open"):
        import_examples(examples(10), "numbers")
