"""Examples into MongoDB and out of it, beside lists in documents, read in batches of 32, and beside a bare cursor."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import Bar, Check, Comparison, Program, interleave
from benchmarks.scratch_project import scratch_project
from datasets_impl import mongo_access
from datasets_impl.loaders import build_loader
from datasets_impl.mongo import MongoDataset
from datasets_impl.window_sampler import WindowSampler
from pipeline import imported_data
from trainloom import import_examples

EXAMPLES = 40_000
LISTED = 8_000  # fewer of those whose way takes long; rates are compared
BATCH = 32  # what the documented way reads at a time
OURS = 256  # examples of a training's batch
CURSOR = 100_000  # documents asked for at once
PIPELINES = {"tiers": {tier: [] for tier in ("train", "validation", "test")}, "inputs": "x", "targets": "y"}
ROW = {"dataset_file_name": "mongo:read"}


def measure(pairs: int) -> list[Comparison | Check]:
    """Compare importing with inserting documents of lists one after the other, reading with both peers.

    Examples are images of 784 bytes with a label. What is imported comes from memory, so that no source is measured.
    Reading is an epoch in windows, from the server: neither memory nor the node's cache keeps anything. That the
    dataset was indexed before is not counted; how long that takes is told.
    """
    images = np.random.RandomState(0).randint(0, 256, (EXAMPLES, 28, 28), dtype=np.uint8)
    with scratch_project(store="gridfs") as session:
        database = mongo_access.borrow().database()
        listed, binary = database["listed"], database[f"{session.settings.schema_name}.data.read"]
        import_examples(_examples(images), "read", count=EXAMPLES)
        _insert_lists(listed, images)
        scan = _scan()
        fast = interleave(
            {"ours": lambda _: _read_ours(), "cursor": lambda _: _read_cursor(binary), "scan": lambda _: _scan()}, pairs
        )
        slow_programs: dict[str, Program] = {"ours": lambda _: _read_ours(), "lists": lambda _: _read_lists(listed)}
        slow = interleave(slow_programs, pairs)
        importing = interleave(
            {"ours": lambda _: _import(images), "lists": lambda _: _insert_lists(database["inserted"], images)}, pairs
        )
    return [
        _comparison("imported / lists of floats, one document at a time", importing, "lists", 8),
        _comparison(f"read / lists turned to arrays in batches of {BATCH}", slow, "lists", 12),
        _comparison("read / bare cursor over the same documents", fast, "cursor", 0.7),
        Comparison("indexed / bare cursor over the same documents", fast["scan"], fast["cursor"], "examples/s"),
        Check("indexed at first", None, f"{scan:,.0f} examples/s"),
    ]


def _comparison(name: str, rates: dict[str, list[float]], peer: str, bar: float) -> Comparison:
    return Comparison(f"examples {name}", rates["ours"], rates[peer], "examples/s", Bar(bar, at_most=False))


def _examples(images: np.ndarray) -> Any:
    return ({"x": image, "y": number % 10} for number, image in enumerate(images))


def _import(images: np.ndarray) -> float:
    started = time.perf_counter()
    import_examples(_examples(images), "written", count=EXAMPLES)
    rate = EXAMPLES / (time.perf_counter() - started)
    imported_data.remove("written")
    return rate


def _insert_lists(collection: Any, images: np.ndarray) -> float:
    """As the documented cleaner does: a list of numbers for each image, each document inserted by itself."""
    collection.drop()
    now = datetime.now(UTC)
    started = time.perf_counter()
    for number, image in enumerate(images[:LISTED]):
        values = (image.reshape(-1) / 1.0).tolist()
        document = {"x": values, "y": number % 10, "img_num": number, "utc_import_time": now, "dataset": "written"}
        collection.insert_one({**document, "img_count": LISTED})
    return LISTED / (time.perf_counter() - started)


def _scan() -> float:
    """Index the dataset as if for the first time."""
    access = mongo_access.borrow()
    access.database()[f"{access.prefix}.data_indexes"].drop()
    started = time.perf_counter()
    MongoDataset.fingerprint(Path(ROW["dataset_file_name"]), cache_bytes=0, **PIPELINES)
    return 3 * EXAMPLES / (time.perf_counter() - started)  # each tier is all of it


def _read_ours() -> float:
    dataset = MongoDataset(ROW, "", "validation", memory_budget=0, cache_bytes=0, input_dtype="uint8", **PIPELINES)
    loader = build_loader(dataset, tier="validation", batch_size=OURS, sampler=WindowSampler(dataset, blocks=2))
    started = time.perf_counter()
    number = sum(len(targets) for _, targets in loader)
    rate = EXAMPLES / (time.perf_counter() - started)
    if number != EXAMPLES:
        raise RuntimeError(f"{EXAMPLES} examples were to be read, {number} were")
    return rate


def _read_cursor(collection: Any) -> float:
    started = time.perf_counter()
    number = sum(1 for _ in collection.find({}, batch_size=CURSOR))
    rate = EXAMPLES / (time.perf_counter() - started)
    if number != EXAMPLES:
        raise RuntimeError(f"{EXAMPLES} documents were to be read, {number} were")
    return rate


def _read_lists(collection: Any) -> float:
    """As the documented learner does: batches of documents out of a cursor, lists turned to arrays."""
    started = time.perf_counter()
    batch: list[dict[str, Any]] = []
    for document in collection.aggregate([{"$match": {}}], batchSize=BATCH):
        batch.append(document)
        if len(batch) == BATCH:
            _turned(batch)
            batch = []
    if batch:
        _turned(batch)
    return LISTED / (time.perf_counter() - started)


def _turned(batch: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    targets = np.array([document["y"] for document in batch]).reshape(len(batch), 1)
    inputs = np.array([document["x"] for document in batch]).reshape(len(batch), 1, 28, 28)
    return inputs.astype("float32"), targets
