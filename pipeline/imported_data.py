"""Datasets that were imported into MongoDB: which there are, where they lie, and how one is removed."""

from __future__ import annotations

from typing import Any

from datasets_impl.mongo_access import MongoAccess, borrow
from datasets_impl.mongo_view import IMPORTED, patiently
from schemas.dataset_config import DatasetConfig

from .import_documents import ImportFailed

IMPORTING, COMPLETE = "importing", "complete"


def states(access: MongoAccess) -> Any:
    """The collection that says of each dataset, by its key, whether all its documents are there."""
    return access.database()[f"{access.prefix}.data"]


def documents(access: MongoAccess, key: str) -> Any:
    """The collection of a dataset's documents."""
    return access.database()[f"{access.prefix}.data.{key}"]


def remove(key: str) -> int:
    """Remove an imported dataset, `name` or `name@version`; returns how many documents it had.

    Raises
    ------
    ImportFailed
        If there is none, or a dataset configuration names it.
    """
    access = borrow()
    if users := (DatasetConfig() & {"dataset_file_name": f"{IMPORTED}{key}"}).keys():
        shown = ", ".join(row["dataset_config_md5_hash"][:8] for row in users)
        raise ImportFailed(f"the dataset {key} is named by the dataset configurations {shown}; delete those first")

    def removed() -> int:
        # First invisible: what is left when this breaks off is an unfinished import.
        if not states(access).update_one({"_id": key}, {"$set": {"state": IMPORTING}}).matched_count:
            raise ImportFailed(f"no dataset {key!r} was imported; `trainloom data list` shows what was")
        number = int(documents(access, key).count_documents({}))
        documents(access, key).drop()
        access.database()[f"{access.prefix}.data_indexes"].delete_many({"dataset": f"{IMPORTED}{key}"})
        states(access).delete_one({"_id": key})
        return number

    return patiently(access, f"the dataset {key}", removed)


def imported() -> list[dict[str, Any]]:
    """All datasets that were imported, also those whose import has not come to its end, by name."""
    access = borrow()
    found = states(access)
    return patiently(access, "the imported datasets", lambda: list(found.find().sort("_id")))
