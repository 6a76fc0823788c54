"""Training data out of MongoDB: every example once, the same for everybody, and never other ones than were recorded."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as draw
from pymongo.collection import Collection
from torch import nn

from datasets_impl import mongo_index, mongo_view
from datasets_impl.contract import DatasetError
from datasets_impl.hdf5 import HDF5Dataset
from datasets_impl.hdf5_writer import write_tiers
from datasets_impl.loaders import build_loader
from datasets_impl.mongo import MongoDataset
from datasets_impl.mongo_access import ExamplesUnavailable
from datasets_impl.window_sampler import WindowSampler
from pipeline.data_import import import_examples
from pipeline.mongo_database import MongoDatabase
from pipeline.retry import blame_for
from schemas.attempt import Blame
from tests.integration.mongo_examples import PROJECT, dataset, examples, lent_database
from tests.resumable_training import Kept, StopAfter, digest
from trainers.contract import Stopped
from trainers.nn_trainer import NNTrainer

COUNT = 300  # 210 in train
BLOCK = 16  # examples


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongo_index, "BLOCK_EXAMPLES", BLOCK)


@pytest.fixture(scope="module")
def kept_mongo(server_home: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoDatabase]:
    """A database with the numbers, which no test changes."""
    with lent_database(server_home, tmp_path_factory.mktemp("kept") / "blocks") as mongo:
        import_examples(examples(COUNT), "numbers")
        yield mongo


@pytest.fixture
def mongo(server_home: Any, tmp_path: Path) -> Iterator[MongoDatabase]:
    with lent_database(server_home, tmp_path / "blocks") as mongo:
        import_examples(examples(COUNT), "numbers")
        yield mongo


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The aggregations that this process has sent."""
    sent: list[Any] = []
    aggregate = Collection.aggregate_raw_batches

    def counted(self: Any, pipeline: Any, **options: Any) -> Any:
        sent.append(pipeline)
        return aggregate(self, pipeline, **options)

    monkeypatch.setattr(Collection, "aggregate_raw_batches", counted)
    return sent


def train_rows() -> list[dict[str, Any]]:
    return [example for example in examples(COUNT) if example["tier"] == "train"]


def loader(found: Any, **options: Any) -> Any:
    return build_loader(found, tier=options.pop("tier", "train"), batch_size=8, **options)


def seen(loader: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    batches = [(inputs.clone(), targets.clone()) for inputs, targets in loader]
    loader.close()
    return batches


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.mark.usefixtures("kept_mongo")
@pytest.mark.parametrize(("memory_budget", "num_workers"), [(1 << 30, 0), (0, 2)])
def test_it_gives_the_batches_that_an_hdf5_file_of_the_same_examples_gives(
    tmp_path: Path, memory_budget: int, num_workers: int
) -> None:
    tiers: dict[str, dict[str, Any]] = {}
    for tier in ("train", "validation", "test"):
        rows = [example for example in examples(COUNT) if example["tier"] == tier]
        tiers[tier] = {name: np.array([row[name] for row in rows]) for name in ("inputs", "targets")}
    write_tiers(tmp_path / "numbers.h5", tiers)
    for tier in tiers:
        ours = dataset(tier, classes=5, memory_budget=memory_budget)
        theirs = HDF5Dataset({"dataset_file_name": "numbers.h5"}, tmp_path, tier, classes=5)
        assert ours.get_output_shape() == theirs.get_output_shape() == (5,)
        assert torch.equal(ours.get_labels(), theirs.get_labels())
        assert same(
            seen(loader(ours, tier=tier, seed=3, num_workers=num_workers)), seen(loader(theirs, tier=tier, seed=3))
        )


@pytest.mark.feature("N7")
@pytest.mark.usefixtures("kept_mongo")
def test_the_last_short_batch_is_kept_and_epochs_go_on_for_ever() -> None:
    batches = loader(dataset("validation"), tier="validation")
    for _ in range(3):
        assert [len(targets) for _, targets in batches] == [8] * 7 + [4]
    with pytest.raises(IndexError):
        dataset("validation")[60]
    assert len(list(dataset("validation"))) == 60


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw.data())
def test_no_example_is_lost_or_doubled_whoever_reads(kept_mongo: MongoDatabase, data: draw.DataObject) -> None:
    """Split between ranks, and interrupted after any batch."""
    ranks = data.draw(draw.integers(1, 3))
    seed, epoch = data.draw(draw.integers(0, 9)), data.draw(draw.integers(0, 9))
    blocks = data.draw(draw.integers(1, 20))

    def rank_loader(rank: int) -> Any:
        found = dataset(memory_budget=0)
        made = build_loader(
            found, tier="validation", batch_size=8, sampler=WindowSampler(found, blocks=blocks), seed=seed
        )
        if ranks > 1:
            made.split_between(rank, ranks)
        return made

    def rest(rank: int, stop: int) -> list[Any]:
        made = rank_loader(rank)
        made.resume(epoch, stop)
        return [batch[0] if ranks == 1 else batch.batch[0][: batch.size] for batch in made]

    stop = data.draw(draw.integers(0, 1 + 210 // (8 * ranks)))
    whole = [rest(rank, 0) for rank in range(ranks)]
    rows = torch.cat([batch for each in whole for batch in each])
    expected = torch.tensor(np.array([row["inputs"] for row in train_rows()]))
    assert torch.equal(rows[rows[:, 0].argsort()], expected[expected[:, 0].argsort()])
    for rank in range(ranks):
        left = rest(rank, stop)
        assert len(left) == len(whole[rank][stop:])
        assert all(map(torch.equal, left, whole[rank][stop:]))


class Net(nn.Module):
    """Two layers with dropout between them."""

    def __init__(self, input_shape: Any = (), output_shape: Any = ()) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.usefixtures("kept_mongo")
@pytest.mark.parametrize("stops", [(1,), (27,), (40, 3)], ids=str)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_that_is_interrupted_ends_with_the_same_bits(
    tmp_path: Path, stops: tuple[int, ...], num_workers: int
) -> None:
    def build(**options: Any) -> NNTrainer:
        found = dataset(classes=5, memory_budget=0)
        tiers = {
            "train": loader(found, sampler=WindowSampler(found, blocks=3), seed=5, num_workers=num_workers),
            **{tier: loader(dataset(tier, classes=5), tier=tier) for tier in ("validation", "test")},
        }
        return NNTrainer(
            **{f"{tier}_dataloader": batches for tier, batches in tiers.items()},
            device="cpu",
            model_class=Net,
            model_class_params={"input_shape": (3,), "output_shape": (5,)},
            optimizer_class=torch.optim.Adam,
            optimizer_class_params={"lr": 0.01},
            criterion_class=nn.CrossEntropyLoss,
            criterion_class_params={},
            model_save_path=str(tmp_path / "best.weights"),
            max_epoch=3,
            seed=11,
            **options,
        )

    undisturbed = build()
    undisturbed.train()
    kept = Kept()
    for stop in stops:
        with pytest.raises(Stopped):
            build(checkpoints=kept, stop=StopAfter(stop), checkpoint_epochs=0).train()
    resumed = build(checkpoints=kept, checkpoint_epochs=0)
    resumed.train()
    assert len(kept.contents) == len(stops)
    assert digest(resumed) == digest(undisturbed)


@pytest.mark.feature("T7")
@pytest.mark.usefixtures("kept_mongo")
def test_loader_processes_change_nothing_in_windows_larger_than_memory() -> None:
    batches = []
    for num_workers in (0, 1, 2):
        found = dataset(memory_budget=0)
        made = loader(found, sampler=WindowSampler(found, blocks=3), seed=5, num_workers=num_workers)
        batches.append([*seen(made), *seen(made)])
    assert same(batches[0], batches[1])
    assert same(batches[0], batches[2])
    assert not same(batches[0][:20], batches[0][26:46])


@pytest.mark.feature("T7")
def test_the_next_epoch_comes_from_the_nodes_cache(mongo: MongoDatabase, queries: list[Any]) -> None:
    found = dataset(memory_budget=0)  # has read all once, for its fingerprint
    assert len(queries) == 3
    blocks = list(mongo.cache_folder.glob("??/*"))
    assert len(blocks) == sum(-(-count // BLOCK) for count in (210, 60, 30))
    assert found[7][0].tolist() == train_rows()[7]["inputs"].tolist()
    assert len(queries) == 3
    for path in blocks:
        path.unlink()
    again = dataset(memory_budget=0)
    first = seen(loader(again, seed=1))
    fetched = len(queries)
    assert fetched >= 3 + -(-210 // BLOCK)
    assert same(seen(loader(dataset(memory_budget=0), seed=1)), first)
    assert len(queries) == fetched


@pytest.mark.usefixtures("kept_mongo")
def test_blocks_are_read_ahead_only_where_the_next_one_is_known(queries: list[Any]) -> None:
    found = dataset(memory_budget=0, cache_bytes=0)

    def fetched(*numbers: int) -> set[int]:
        """The blocks that were sent for while examples of these were read."""
        queries.clear()
        for number in numbers:
            found[number * BLOCK]
        for coming in found._tier._coming.values():
            coming.result()
        found._tier.close()
        firsts = found._tier._index.firsts
        return {firsts.index(pipeline[0]["$match"]["_id"]["$gte"]) for pipeline in queries}

    assert fetched(9, 3, 6) == {9, 3, 6}
    assert fetched(0) == {0, 1, 2, 3, 4}
    found.expect(torch.tensor([5, 9, 2, 7]) * BLOCK)
    assert fetched(5) == {5, 9, 2, 7}
    found.expect(torch.tensor([5, 9, 2, 7]) * BLOCK)
    travelled = pickle.loads(pickle.dumps(found))
    assert travelled._tier._next == list(range(1, 15))


@pytest.mark.usefixtures("kept_mongo")
def test_without_a_cache_nothing_is_written(tmp_path: Path, server_home: Any) -> None:
    with lent_database(server_home, tmp_path / "none") as mongo:
        import_examples(examples(COUNT), "numbers")
        found = dataset(memory_budget=0, cache_bytes=0)
        assert len(seen(loader(found))) == 26
        assert not mongo.cache_folder.exists()


@pytest.mark.feature("N6")
@pytest.mark.usefixtures("kept_mongo")
def test_learners_see_the_same_documents_differently() -> None:
    doubled = [{"$match": {"targets": {"$in": [1, 2]}}}, {"$set": {"again": {"$multiply": ["$targets", 2]}}}]
    few = dataset(pipeline=doubled, targets="again")
    rows = [row for row in train_rows() if row["targets"] in (1, 2)]
    assert len(few) == len(rows)
    assert few[3][1] == 2 * rows[3]["targets"]
    assert few[3][0].tolist() == rows[3]["inputs"].tolist()
    tiers = {
        "train": [{"$match": {"number": {"$lt": 100}}}],
        "validation": [{"$match": {"number": {"$gte": 100, "$lt": 110}}}],
        "test": [{"$match": {"number": 250}}],
    }
    assert [len(dataset(tier, tiers=tiers)) for tier in tiers] == [100, 10, 1]
    several = dataset(inputs={"x": "inputs", "n": "number"}, targets=["targets", "number"], input_dtype="int64")
    inputs, targets = several[1]
    assert inputs["x"].tolist() == train_rows()[1]["inputs"].tolist()
    assert (inputs["n"].item(), inputs["n"].dtype) == (1, torch.int64)
    assert [target.item() for target in targets] == [train_rows()[1]["targets"], 1]


@pytest.mark.usefixtures("kept_mongo")
def test_stages_that_look_at_several_documents_see_all_of_them(queries: list[Any]) -> None:
    grouped = [{"$group": {"_id": "$targets", "total": {"$sum": "$number"}}}, {"$set": {"class": "$_id"}}]
    found = dataset(pipeline=grouped, inputs="total", targets="class", memory_budget=0, cache_bytes=0)
    expected = [
        sum(i for i, row in enumerate(examples(COUNT)) if row["tier"] == "train" and row["targets"] == k)
        for k in range(5)
    ]
    assert [found[k][0].item() for k in range(5)] == expected
    limited = dataset(
        pipeline=[{"$sort": {"number": -1}}, {"$limit": 20}], inputs="number", memory_budget=0, cache_bytes=0
    )
    numbers = [i for i, row in enumerate(examples(COUNT)) if row["tier"] == "train"][-20:]
    assert [limited[k][0].item() for k in range(20)] == numbers


@pytest.mark.usefixtures("kept_mongo")
@pytest.mark.parametrize("memory_budget", [1 << 30, 0])
def test_consecutive_documents_make_sequences(memory_budget: int) -> None:
    found = dataset(sequence_length=4, memory_budget=memory_budget)
    rows = train_rows()
    assert len(found) == 210 // 4
    inputs, targets = found[51]
    assert inputs.tolist() == [row["inputs"].tolist() for row in rows[204:208]]
    assert targets.item() == rows[207]["targets"]
    inputs, targets = found.__getitems__(torch.tensor([3, 0]))
    assert inputs.shape == (2, 4, 3)
    assert targets.tolist() == [rows[15]["targets"], rows[3]["targets"]]
    assert torch.equal(found.get_labels(), torch.tensor([row["targets"] for row in rows[3::4]]))
    sampler = WindowSampler(found, blocks=2)
    assert sorted(sampler.order().tolist()) == list(range(52))
    assert len(list(loader(found, sampler=sampler))) == 6


class Spoilt:
    """Collections whose cursors go wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any, int], None]) -> None:
        self.opened = 0
        aggregate = Collection.aggregate_raw_batches

        def opened(collection: Any, pipeline: Any, **options: Any) -> Iterator[bytes]:
            self.opened += 1
            cursor = aggregate(collection, pipeline, **{**options, "batchSize": 20})
            for number, batch in enumerate(cursor):
                yield batch
                if number == 1:
                    spoil(cursor, self.opened)

        monkeypatch.setattr(Collection, "aggregate_raw_batches", opened)


def test_a_cursor_that_was_killed_is_continued(mongo: MongoDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the server itself, which says so at the next batch."""
    monkeypatch.setattr(mongo_view, "BATCH", 20)
    monkeypatch.setattr(mongo_index, "BLOCK_EXAMPLES", 1000)
    undisturbed = MongoDataset.fingerprint(Path("mongo:numbers"))
    mongo.database()[f"{PROJECT}.data_indexes"].drop()

    def kill(cursor: Any, _: int) -> None:
        if cursor.cursor_id:
            killed = mongo.database().command("killCursors", f"{PROJECT}.data.numbers", cursors=[cursor.cursor_id])
            assert killed["cursorsKilled"] == [cursor.cursor_id]

    spoilt = Spoilt(monkeypatch, kill)
    assert MongoDataset.fingerprint(Path("mongo:numbers")) == undisturbed
    assert spoilt.opened > 8
    found = dataset(memory_budget=0, cache_bytes=0)
    assert [row[1].item() for row in found] == [row["targets"] for row in train_rows()]


def test_a_pipeline_without_an_early_range_is_continued_as_well(
    mongo: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped = [{"$group": {"_id": "$number", "targets": {"$first": "$targets"}}}]

    def kill(cursor: Any, _: int) -> None:
        if cursor.cursor_id:
            mongo.database().command("killCursors", f"{PROJECT}.data.numbers", cursors=[cursor.cursor_id])

    Spoilt(monkeypatch, kill)
    found = dataset(pipeline=grouped, inputs="_id", memory_budget=0, cache_bytes=0)
    assert [int(row[0]) for row in found] == [i for i, row in enumerate(examples(COUNT)) if row["tier"] == "train"]


def test_data_that_changed_are_noticed_at_training(mongo: MongoDatabase) -> None:
    recorded = {
        "dataset_file_name": "mongo:numbers",
        "dataset_file_sha256": MongoDataset.fingerprint(Path("mongo:numbers")),
    }
    documents = mongo.database()[f"{PROJECT}.data.numbers"]
    one = documents.find_one({"_id": 7})  # of validation
    documents.update_one({"_id": 0}, {"$set": {"targets": 3}})
    # In place: neither the record of the import nor the number of documents tells it, but the block does.
    for path in mongo.cache_folder.glob("??/*"):
        path.unlink()
    found = MongoDataset(recorded, "", "train", memory_budget=0)
    with pytest.raises(DatasetError, match="tier 'train' of mongo:numbers has changed since it was recorded"):
        found[0]
    assert MongoDataset.fingerprint(Path("mongo:numbers")) != recorded["dataset_file_sha256"]  # it can be inserted anew
    documents.update_one({"_id": 0}, {"$set": {"targets": 0}})
    assert found[0][1] == 0
    documents.delete_one({"_id": 7})
    assert MongoDataset.fingerprint(Path("mongo:numbers")) != recorded["dataset_file_sha256"]
    with pytest.raises(DatasetError, match="mongo:numbers has changed since its configuration was inserted"):
        MongoDataset(recorded, "", "validation")
    documents.insert_one(one)
    assert MongoDataset.fingerprint(Path("mongo:numbers")) == recorded["dataset_file_sha256"]
    assert len(MongoDataset(recorded, "", "validation")) == 60


def test_a_block_that_lost_or_gained_documents_is_noticed(mongo: MongoDatabase) -> None:
    found = dataset(memory_budget=0, cache_bytes=0)
    documents = mongo.database()[f"{PROJECT}.data.numbers"]
    one = documents.find_one({"_id": 1})
    documents.delete_one({"_id": 1})
    with pytest.raises(DatasetError, match="has changed"):
        found[0]
    documents.insert_many([one, {**one, "_id": 1_000}])
    with pytest.raises(DatasetError, match="has changed"):
        found[209]
    assert len(found[0]) == 2


def test_the_fingerprint_is_of_what_is_read(mongo: MongoDatabase, queries: list[Any]) -> None:
    def fingerprint(**params: Any) -> str:
        return MongoDataset.fingerprint(Path("mongo:numbers"), **params)

    first = fingerprint()
    assert len(queries) == 3
    assert fingerprint() == fingerprint(memory_budget=5, classes=3) == first
    assert len(queries) == 3  # an imported dataset that has not changed is not read again
    import_examples(examples(COUNT), "others", version="7")
    assert MongoDataset.fingerprint(Path("mongo:others@7")) == first
    assert fingerprint(pipeline=[{"$match": {"targets": {"$lt": 9}}}]) == first
    assert fingerprint(pipeline=[{"$match": {"targets": {"$lt": 3}}}]) != first
    assert fingerprint(targets="number") != first


def test_a_collection_of_ones_own_is_read_anew_each_time(mongo: MongoDatabase, queries: list[Any]) -> None:
    """Plain documents, with lists and an _id that the server gave."""
    own = mongo.database()["lab.own"]
    own.insert_many(
        [
            {"inputs": [1.0 * i, 2.0], "targets": i % 2, "tier": tier}
            for tier in ("train", "validation", "test")
            for i in range(9)
        ]
    )
    found = dataset(name="collection:lab.own")
    assert found[5][0].tolist() == [5.0, 2.0]
    before = MongoDataset.fingerprint(Path("collection:lab.own"))
    own.update_one({"inputs": [5.0, 2.0]}, {"$set": {"inputs": [5.0, 3.0]}})
    assert MongoDataset.fingerprint(Path("collection:lab.own")) != before
    assert len(queries) == 9


@pytest.mark.usefixtures("kept_mongo")
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"name": "mongo:gone"}, "no dataset 'gone' was imported \\(there is numbers\\)"),
        ({"name": "collection:gone"}, "there is no collection 'gone' in MongoDB at .*"),
        ({"name": "numbers"}, "'numbers' names no data in MongoDB"),
        ({"pipeline": [{"$match": {"targets": 77}}]}, "tier 'train' of mongo:numbers has no examples"),
        ({"inputs": "pixels"}, "has no field 'pixels' \\(it has targets\\)"),
        ({"inputs": "tier"}, "is a str, not an array or a number"),
        ({"inputs": "a.b"}, "'a.b' is no field of its own"),
        ({"pipeline": [{"$out": "x"}]}, "may not hold \\$out"),
        ({"pipeline": [{"$merge": {"into": "x"}}]}, "may not hold \\$merge"),
        ({"pipeline": [{"$match": {"$where": "1"}}]}, "may not hold \\$where"),
        ({"pipeline": [{"$lookup": {"from": "x", "as": "y", "pipeline": [{"$out": "z"}]}}]}, "may not hold \\$out"),
        ({"pipeline": [{"$set": {"x": {"$function": {"body": "", "args": [], "lang": "js"}}}}]}, "\\$function"),
        ({"pipeline": [{"$group": {"_id": 1, "x": {"$accumulator": {}}}}]}, "\\$accumulator"),
        ({"pipeline": [{"$sample": {"size": 5}}]}, "may not hold \\$sample, which gives other examples each time"),
        ({"pipeline": [{"$set": {"x": "$$NOW"}}]}, "may not hold \\$\\$NOW"),
        ({"pipeline": [{"$sort": {"targets": 1, "number": -1}}]}, "may sort by one field only"),
        ({"pipeline": {"$match": {}}}, "a pipeline is a list of stages"),
        ({"pipeline": [{"$match": {}, "$set": {}}]}, "is no stage"),
        ({"pipeline": [{"$nothing": {}}]}, "Unrecognized pipeline stage"),
        ({"pipeline": [{"$set": {"_id": 5}}]}, "has the _id 5 more than once"),
        ({"pipeline": [{"$unset": "_id"}]}, "have no _id"),
        (
            {
                "pipeline": [
                    {"$set": {"_id": {"$cond": [{"$lt": ["$number", 9]}, "$number", {"$toString": "$number"}]}}}
                ]
            },
            "_id of more than one type",
        ),
        (
            {"pipeline": [{"$set": {"inputs": {"$cond": [{"$lt": ["$number", 9]}, 1, [1, 2]]}}}]},
            "give all examples one shape",
        ),
        ({"tiers": {"train": []}}, "give the stages of each of train, validation, test"),
        ({"tier_field": "$x"}, "tier_field is"),
        ({"classes": 3}, "has labels from 0 to 4, but classes=3 allows 0 to 2"),
        ({"classes": 0}, "classes is 0"),
        ({"sequence_length": 0}, "sequence_length is 0"),
        ({"sequence_length": 500}, "has 210 examples, fewer than one sequence of 500"),
        ({"sequence_length": 2, "targets": "inputs"}, "'inputs' is both input and target"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_sentence(params: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        _read_one(**params)


def _read_one(name: str = "mongo:numbers", **params: Any) -> None:
    keyed = {one: value for one, value in params.items() if one not in ("classes", "sequence_length")}
    MongoDataset.fingerprint(Path(name), **keyed)
    MongoDataset({"dataset_file_name": name}, "", "train", **params)


def test_an_import_that_has_not_ended_is_no_dataset(mongo: MongoDatabase) -> None:
    mongo.database()[f"{PROJECT}.data"].update_one({"_id": "numbers"}, {"$set": {"state": "importing"}})
    with pytest.raises(DatasetError, match="the import of 'numbers' has not come to its end: run it again"):
        MongoDataset.fingerprint(Path("mongo:numbers"))


@pytest.mark.usefixtures("kept_mongo")
def test_it_travels_to_processes_that_are_spawned() -> None:
    found = dataset(memory_budget=0)
    before = found[3]
    travelled = pickle.loads(pickle.dumps(found))
    assert same([before], [travelled[3]])


def test_a_server_that_goes_away_is_waited_for_and_then_told(
    kept_mongo: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from pydantic import SecretStr

    found = dataset(memory_budget=0, cache_bytes=0)
    away = replace(kept_mongo, url=SecretStr("mongodb://127.0.0.1:9"), patience=0.3, selection_timeout=100)
    monkeypatch.setattr(found._tier, "_access", away)
    with pytest.raises(
        ExamplesUnavailable, match="127.0.0.1:9, database .*, which has tier 'train' of mongo:numbers, did"
    ) as raised:
        found[0]
    assert blame_for(raised.value) is Blame.WORKER
    away.close()
