"""Arrays in documents: what comes out is what went in, whichever way a batch is taken apart."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import bson
import numpy as np
import pytest
from bson import Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as draw
from hypothesis.extra import numpy as arrays

from datasets_impl import bson_arrays
from datasets_impl.bson_arrays import columns, decode, encode
from datasets_impl.contract import DatasetError

NUMBERS = draw.one_of(
    arrays.boolean_dtypes(),
    *(kind(endianness=order) for order in "<>" for kind in (arrays.integer_dtypes, arrays.floating_dtypes)),
    arrays.unsigned_integer_dtypes(),
    arrays.complex_number_dtypes(),
).filter(lambda dtype: dtype.itemsize <= (16 if dtype.kind == "c" else 8))


def batch_of(documents: list[dict[str, Any]]) -> bytes:
    return b"".join(bson.encode(document) for document in documents)


@given(NUMBERS.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=4))))
def test_arrays_come_back_with_dtype_and_shape(array: np.ndarray) -> None:
    stored = bson.decode(bson.encode({"x": bson_arrays.encode_array(array, "x")}))["x"]
    found = decode(stored, "x")
    assert found.shape == array.shape
    assert found.dtype == array.dtype.newbyteorder("<")
    assert found.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()


def test_the_encoding_is_the_one_that_is_documented() -> None:
    assert encode(np.array([[1, 2]], ">i2"), "x") == {"dtype": "<i2", "shape": [1, 2], "data": b"\1\0\2\0"}
    for value, stored in ((np.int8(3), Int64(3)), (7, Int64(7)), (np.float32(0.5), 0.5), (np.bool_(True), True)):
        assert encode(value, "x") == stored
        assert type(encode(value, "x")) is type(stored)
    assert encode(2**63, "x")["dtype"] == "<u8"


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([object()]), np.array(["2020"], "M8[Y]")])
def test_what_has_no_fixed_bytes_is_refused(value: np.ndarray) -> None:
    with pytest.raises(DatasetError, match="inputs has dtype"):
        encode(value, "inputs")


@draw.composite
def documents(choose: draw.DrawFn) -> list[dict[str, Any]]:
    """Examples of one make beside fields of all kinds, which may differ in length."""
    number = choose(draw.integers(1, 5))
    shape = choose(arrays.array_shapes(min_dims=0, max_side=3))
    dtype = choose(draw.sampled_from(["f4", "u1", "i8", "?"]))
    texts = choose(draw.sampled_from([("same",), ("a", "longer")]))
    scalar = choose(draw.sampled_from([lambda i: Int64(i), lambda i: i, lambda i: i / 2, lambda i: i % 2 == 0]))
    start = choose(draw.sampled_from([0, ObjectId(), "key"]))
    made = []
    for place in range(number):
        array = np.random.RandomState(place).randint(0, 2, shape).astype(dtype)
        identity = start + place if start == 0 else start if place == 0 else f"{start}{place}"
        made.append(
            {
                "_id": identity,
                "note": texts[place % len(texts)],
                "time": datetime(2020, 1, 1 + place, tzinfo=UTC),
                "x": encode(array, "x"),
                "y": scalar(place),
                "nothing": None,
            }
        )
    return made


@given(documents())
def test_both_ways_give_the_same_columns(made: list[dict[str, Any]]) -> None:
    batch = batch_of(made)
    slow = columns_one_by_one(batch)
    fast = columns(batch, ["x", "y"], "data")
    for name in ("x", "y"):
        assert fast.arrays[name].dtype == slow.arrays[name].dtype
        np.testing.assert_array_equal(fast.arrays[name], slow.arrays[name])
    assert [fast.identity(place) for place in range(fast.length)] == [document["_id"] for document in made]
    assert fast.repeated is slow.repeated is None


def columns_one_by_one(batch: bytes) -> bson_arrays.Columns:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bson_arrays, "_same_make", lambda *_: None)
        return columns(batch, ["x", "y"], "data")


def test_documents_of_one_make_are_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [{"_id": place, "x": encode(np.full((2, 2), place, "f4"), "x"), "y": Int64(place)} for place in range(3)]
    monkeypatch.setattr(bson, "decode_all", None)
    found = columns(batch_of(made), ["x", "y"], "data")
    np.testing.assert_array_equal(found.arrays["x"][:, 0, 1], [0, 1, 2])
    assert found.arrays["y"].dtype == np.int64


def test_lists_of_numbers_are_arrays_too() -> None:
    made = [{"_id": place, "x": [[1.0, 2.0], [3.0, place]]} for place in range(2)]
    assert columns(batch_of(made), ["x"], "data").arrays["x"].shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"_id": 2}, "document 2 of data has no field 'x' \\(it has none\\)"),
        ({"_id": 2, "x": encode(np.zeros(3), "x")}, "'x' of document 2 of data is float64 of shape \\[3\\], but"),
        (
            {"_id": 2, "x": encode(np.zeros(2, "f4"), "x")},
            "is float32 of shape \\[2\\], but that of earlier ones is float64",
        ),
        ({"_id": 2, "x": "text"}, "field 'x' of document 2 of data is a str, not an array or a number"),
        ({"_id": 2, "x": [[1], [1, 2]]}, "a list of unequal parts"),
        ({"_id": 2, "x": {"dtype": "<f8", "shape": [2], "data": b"short"}}, "is a damaged array"),
        ({"_id": 2, "x": {"dtype": "|O", "shape": [2], "data": bytes(16)}}, "has no fixed meaning in bytes"),
        ({"x": encode(np.zeros(2), "x")}, "have no _id"),
    ],
)
def test_documents_that_do_not_fit_are_named(second: dict[str, Any], message: str) -> None:
    first = {"_id": 1, "x": encode(np.zeros(2), "x")}
    with pytest.raises(DatasetError, match=message):
        columns(batch_of([first, second]), ["x"], "data")


@pytest.mark.parametrize("identity", [7, "seven", ObjectId()])
def test_an_id_that_comes_twice_is_found(identity: Any) -> None:
    made = [{"_id": identity, "x": Int64(place)} for place in range(2)]
    assert columns(batch_of(made), ["x"], "data").repeated == identity


def test_documents_of_one_length_but_another_make_are_told_apart() -> None:
    """The same number of bytes, with the values elsewhere."""
    first = {"_id": 1, "a": "longer", "x": encode(np.arange(3.0), "x"), "b": "b", "y": Int64(1)}
    second = {"_id": 2, "a": "a", "x": encode(np.arange(3.0, 6.0), "x"), "b": "longer", "y": Int64(2)}
    third = {"_id": 3, "y": Int64(3), "a": "longer", "b": "b", "x": encode(np.arange(6.0, 9.0), "x")}
    batch = batch_of([first, second, third])
    assert len({len(bson.encode(document)) for document in (first, second, third)}) == 1
    found = columns(batch, ["x", "y"], "data")
    assert found.arrays["x"].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert found.arrays["y"].tolist() == [1, 2, 3]


def test_arrays_of_one_length_but_another_dtype_are_told_apart() -> None:
    made = [{"_id": place, "x": encode(np.zeros(2, dtype), "x")} for place, dtype in enumerate(("<f4", "<i4"))]
    with pytest.raises(DatasetError, match="is int32 of shape \\[2\\], but that of earlier ones is float32"):
        columns(batch_of(made), ["x"], "data")
