"""Datasets saved by name: the same arrays back, one object for one content, nothing that runs code."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import dataset_store
from pipeline.dataset_store import UnsuitableDataset
from pipeline.store.errors import ObjectDamaged, ObjectMissing
from schemas.errors import InvalidRow
from schemas.stored_dataset import StoredDataset

DIGEST = "907a25687fe1dd3b2bdb7d181b6a52f70f422c5460567fb9db9626797d24c955"  # other bytes would be another dataset
ARRAYS = (np.arange(6.0).reshape(2, 3), np.array([1, 2], np.int16))


def save(session: Any, dataset: Any, name: str = "mnist", **described: Any) -> dict[str, str]:
    return dataset_store.save(session.store, dataset, name, **{"tags": {}, **described})


def row_of(key: dict[str, str]) -> dict[str, Any]:
    return dict((StoredDataset() & key).fetch1())


def same(left: Any, right: Any) -> bool:
    """Equal in structure, types, dtypes and bits."""
    if isinstance(left, dict):
        return isinstance(right, dict) and {*left} == {*right} and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    return type(left) is type(right) and left == right


@pytest.mark.feature("T2")
def test_a_dataset_comes_back_as_it_was(session: Any) -> None:
    dataset = {
        "pair": ARRAYS,
        "list": [np.array(["ä", "longer"]), np.array([True, False]), np.array([1 + 2j]), np.float16([0.5])],
        "empty": [np.zeros((0, 3)), np.array([], "U"), [], {}],
        "single": [np.array(3.0), 1, 2.5, "text", None, True],
        "nan": np.array([np.nan, -0.0]),
        "strided": np.arange(10)[::2],
    }
    key = save(session, dataset, description="a test", version="1.0", tags={"source": "here", "size": 3})
    row = row_of(key)
    assert same(dataset_store.load(session.store, row), dataset)
    assert (row["stored_dataset_name"], row["stored_dataset_version"]) == ("mnist", "1.0")
    assert row["stored_dataset_tags"] == {"source": "here", "size": 3}


def test_tensors_come_back_as_arrays(postgres_session: Any) -> None:
    key = save(postgres_session, [torch.ones(2, requires_grad=True)])
    assert same(dataset_store.load(postgres_session.store, row_of(key)), [np.ones(2, np.float32)])


@pytest.mark.feature("T2")
def test_the_same_content_is_stored_once(session: Any, caplog: pytest.LogCaptureFixture) -> None:
    first = save(session, {"a": ARRAYS[0], "b": ARRAYS[1]})
    again = save(session, {"b": ARRAYS[1].copy(), "a": np.asfortranarray(ARRAYS[0])}, description="again")
    assert again == first
    assert "stored already" in caplog.text
    renamed = save(session, {"a": ARRAYS[0], "b": ARRAYS[1]}, name="other")
    versioned = save(session, {"a": ARRAYS[0], "b": ARRAYS[1]}, version="2")
    assert len({key["stored_dataset_md5_hash"] for key in (first, renamed, versioned)}) == 3
    assert len(list(session.store.list())) == 1


def test_other_content_is_another_dataset(session: Any) -> None:
    kept = [
        save(session, dataset)["stored_dataset_md5_hash"]
        for dataset in (ARRAYS, list(ARRAYS), ARRAYS[::-1], [ARRAYS[0].astype(np.float32), ARRAYS[1]], [1], [1.0])
    ]
    assert len(set(kept)) == 6


def test_the_bytes_are_always_the_same(tmp_path: Path) -> None:
    dataset_store.write(tmp_path / "file", [ARRAYS, {"text": np.array(["a"])}])
    assert hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest() == DIGEST


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ([np.array([object()])], "dataset\\[0\\] has dtype object"),
        ({"a": {1: ARRAYS[0]}}, "dataset.a has the key 1"),
        ([[object()]], "dataset\\[0\\]\\[0\\] is a object"),
        ([np.array([datetime.datetime(2026, 1, 1)], "datetime64[s]")], "dtype datetime64"),
        ([torch.ones(1, dtype=torch.bfloat16)], "dataset\\[0\\] cannot be turned into an array"),
    ],
)
def test_what_only_a_pickle_could_hold_is_refused(tmp_path: Path, dataset: Any, said: str) -> None:
    with pytest.raises(UnsuitableDataset, match=said):
        dataset_store.write(tmp_path / "file", dataset)


def test_nothing_is_recorded_of_a_dataset_that_cannot_be_stored(postgres_session: Any) -> None:
    with pytest.raises(UnsuitableDataset):
        save(postgres_session, [object()])
    with pytest.raises(InvalidRow, match="name is empty"):
        save(postgres_session, ARRAYS, name="")
    with pytest.raises(InvalidRow, match="description must be text of at most 2047 characters"):
        save(postgres_session, ARRAYS, description="x" * 3000)
    assert len(StoredDataset()) == 0


def test_a_missing_object_is_said(postgres_session: Any) -> None:
    row = row_of(save(postgres_session, ARRAYS))
    postgres_session.store.delete(row["stored_dataset_sha256"])
    with pytest.raises(ObjectMissing, match=row["stored_dataset_sha256"]):
        dataset_store.load(postgres_session.store, row)


def test_a_damaged_object_is_said(open_session: Any, tmp_path: Path) -> None:
    session = open_session(store="folder", store_dir=tmp_path / "store")
    row = row_of(save(session, ARRAYS))
    (path,) = (tmp_path / "store" / "objects").glob("*/*/content")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ObjectDamaged):
        dataset_store.load(session.store, row)


def test_an_object_of_another_kind_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not HDF5 at all")
    with pytest.raises(UnsuitableDataset, match="no dataset of the store"):
        dataset_store.read(tmp_path / "file")
