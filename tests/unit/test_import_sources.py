"""Files and functions as examples."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from datasets_impl.digits import build_digits
from pipeline.import_documents import ImportFailed
from pipeline.import_sources import opened
from pipeline.resolver import ClassResolver, UnresolvedClass


def read(source: object, **options: Any) -> tuple[list[dict[str, Any]], int | None]:
    with opened(str(source), ClassResolver(("cleaning",)), **options) as examples:
        return [dict(example) for example in examples.each], examples.count


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_of_a_csv_file_are_what_all_their_cells_are(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", 'a,b,name,p0,p1,p2\n1,2,"x, y",1,2,3\n-3,0.5,z,4,5,6\n')
    examples, count = read(path, arrays={"pixels": "p0:p1"})
    assert count == 2
    pixels = [example.pop("pixels") for example in examples]
    assert examples == [{"a": 1, "b": 2.0, "name": "x, y", "p2": 3}, {"a": -3, "b": 0.5, "name": "z", "p2": 6}]
    assert [type(value) for value in examples[0].values()] == [int, float, str, int]
    assert [(array.dtype, array.tolist()) for array in pixels] == [(np.int64, [1, 2]), (np.int64, [4, 5])]


def test_arrays_of_npz_and_hdf5_are_fields(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(6, dtype="f4").reshape(3, 2), name=np.array(["a", "b", "c"]))
    examples, count = read(tmp_path / "a.npz")
    assert count == 3
    assert [example["name"] for example in examples] == ["a", "b", "c"]
    assert examples[2]["x"].tolist() == [4, 5]
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["x"] = np.arange(3000)
    examples, count = read(tmp_path / "flat.h5")
    assert (count, [int(example["x"]) for example in examples]) == (3000, list(range(3000)))


def test_tiers_of_an_hdf5_file_are_told(tmp_path: Path) -> None:
    examples, count = read(build_digits(tmp_path / "digits.h5"))
    assert count == len(examples) == 1797
    assert {example["tier"] for example in examples} == {"train", "validation", "test"}
    assert examples[0]["inputs"].shape == (1, 8, 8)


@pytest.fixture
def cleaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    text = "def examples(n=2):\n    for i in range(n):\n        yield {'y': i}\n\ndef number():\n    return 1\n"
    (tmp_path / "cleaning.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("cleaning", None)


@pytest.mark.usefixtures("cleaning")
def test_a_function_yields_examples() -> None:
    assert read("cleaning:examples", params={"n": 3}) == ([{"y": 0}, {"y": 1}, {"y": 2}], None)


@pytest.mark.usefixtures("cleaning")
@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("os:getcwd", {}, "the function os:getcwd is outside the allowed packages"),
        ("cleaning:nothing", {}, "the module cleaning has no function nothing"),
        ("cleaning:examples", {"params": {"m": 1}}, "cannot be called with \\['m'\\]"),
        ("cleaning:number", {}, "cleaning:number gave a int; it has to yield examples"),
        ("cleaning:a.b", {}, "a function is named as my_package.my_module:my_function"),
        ("cleaning", {}, "'cleaning' is no source of examples"),
        ("gone.npz", {}, "there is no file gone.npz"),
        ("a.npz", {"params": {}}, "parameters are for a function"),
        ("a.npz", {"arrays": {"x": "a:b"}}, "only the columns of a CSV file"),
    ],
)
def test_wrong_sources_are_told(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ImportFailed, UnresolvedClass), match=message):
        read(source, **options)


@pytest.mark.parametrize(
    ("text", "arrays", "message"),
    [
        ("", {}, "has no first line of names"),
        ("a,a\n1,2\n", {}, "names a column twice"),
        ("a,b\n1,2\n1\n", {}, "example 1 of .*bad.csv has 1 cells for 2 columns"),
        ("a,b\n1,2\n", {"x": "a:c"}, "has no column 'c' for the array 'x'"),
        ("a,b\n1,x\n", {"x": "a:b"}, "column 'b' holds cells that are no numbers"),
        ("a,b\n1,2\n", {"x": "b:a"}, "the last column is before it"),
        ('a\n"1\n', {}, "cannot be read as CSV"),
    ],
)
def test_wrong_csv_files_are_told(tmp_path: Path, text: str, arrays: dict[str, str], message: str) -> None:
    path = written(tmp_path / "bad.csv", text)
    with pytest.raises(ImportFailed, match=message):
        read(path, arrays=arrays)


def test_wrong_arrays_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "lengths.npz", x=np.zeros(3), y=np.zeros(2))
    with pytest.raises(ImportFailed, match="not of one length"):
        read(tmp_path / "lengths.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1], dtype=object), allow_pickle=True)
    with pytest.raises(ImportFailed, match="cannot be read as NPZ"):
        read(tmp_path / "objects.npz")
    np.savez(tmp_path / "scalar.npz", x=np.array(1))
    with pytest.raises(ImportFailed, match="array 'x' of scalar.npz is no array"):
        read(tmp_path / "scalar.npz")
    (tmp_path / "broken.h5").write_bytes(b"no HDF5")
    with pytest.raises(ImportFailed, match="cannot be read as HDF5"):
        read(tmp_path / "broken.h5")
