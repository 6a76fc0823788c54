"""A database for examples without a project around it, and examples to put there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pymongo
from pydantic import SecretStr

from datasets_impl import mongo_access
from datasets_impl.mongo import MongoDataset
from pipeline.home import Home
from pipeline.mongo_database import MongoDatabase
from pipeline.services import MongoServer

PROJECT = "project"


@contextmanager
def lent_database(home: Home, cache_folder: Path, *, patience: float = 20.0) -> Iterator[MongoDatabase]:
    """A new database on the embedded server, lent to the datasets of this process."""
    url = MongoServer(home).ensure_running().url
    mongo = MongoDatabase(
        SecretStr(url), f"t{uuid.uuid4().hex[:12]}", PROJECT, cache_folder, 1 << 30, patience, selection_timeout=500
    )
    before = mongo_access.lent()
    mongo_access.lend(mongo)
    try:
        yield mongo
    finally:
        mongo_access.lend(before)
        mongo.close()
        with pymongo.MongoClient(url) as client:
            client.drop_database(mongo.database_name)


def examples(count: int, width: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    """Examples in three tiers, by turns: 70 % train."""
    generator = np.random.RandomState(seed)
    values = generator.standard_normal((count, width)).astype(np.float32)
    tiers = ("train",) * 7 + ("validation", "validation", "test")
    return [{"inputs": values[i], "targets": (i + i // 10) % 5, "tier": tiers[i % 10]} for i in range(count)]


def dataset(tier: str = "train", name: str = "mongo:numbers", **params: Any) -> MongoDataset:
    """One tier, with the recorded fingerprint that it has now."""
    keyed = {name: value for name, value in params.items() if name != "memory_budget"}
    sha256 = MongoDataset.fingerprint(Path(name), **keyed)
    return MongoDataset({"dataset_file_name": name, "dataset_file_sha256": sha256}, "", tier, **params)
