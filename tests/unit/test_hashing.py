"""Keys: different content never shares one, equal content always does."""

from __future__ import annotations

import enum
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidValue
from schemas.hashing import canonical_text, content_md5, plain

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)


def same(a: object, b: object) -> bool:
    """Equality that tells 1 from 1.0 and True, and 0.0 from -0.0: an independent restatement of the rule."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return a == b


@given(VALUES, VALUES)
def test_two_values_share_a_key_exactly_if_they_are_the_same(a, b):
    assert (content_md5(a) == content_md5(b)) == same(a, b)


@given(VALUES)
def test_the_text_reads_back_to_the_same_value(value):
    assert same(json.loads(canonical_text(value)), value)


@given(st.dictionaries(TEXT, VALUES, min_size=2, max_size=4))
def test_the_order_of_a_dict_does_not_count(value):
    assert content_md5(value) == content_md5(dict(reversed(value.items())))


@pytest.mark.parametrize(
    "values", [(1, 1.0, "1", True, None, [], {}, "", 0, 0.0, -0.0, False, "null", [1], [[1]], {"1": 1})]
)
def test_look_alikes_all_differ(values):
    assert len({content_md5(value) for value in values}) == len(values)


@pytest.mark.parametrize(
    ("numpy_value", "python_value"),
    [
        (np.float64(0.1), 0.1),
        (np.int32(7), 7),
        (np.uint64(2**63), 2**63),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        ((1, (2.5, "x")), [1, [2.5, "x"]]),
        (np.float32(0.5), 0.5),
        ({"a": (1,)}, {"a": [1]}),
    ],
)
def test_numpy_scalars_and_tuples_equal_plain_python(numpy_value, python_value):
    assert same(plain(numpy_value), python_value)
    assert content_md5(numpy_value) == content_md5(python_value)


class Colour(enum.IntEnum):
    RED = 1


def test_an_enum_of_integers_is_its_number():
    assert same(plain(Colour.RED), 1)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, math.nan]}, "params.a[1] is nan"),
        ({"a": {"b": math.inf}}, "params.a.b is inf"),
        ({"a": {1, 2}}, "params.a is a builtins.set"),
        ([b"x"], "params[0] is a builtins.bytes"),
        ({"a": np.zeros(2)}, "params.a is a numpy.ndarray"),
        ({1: 2}, "params has the key 1"),
        ({"a": "x\0"}, "params.a holds a NUL"),
        ({"a": "\ud800"}, "params.a holds a lone surrogate"),
        ({"\ud800": 1}, "params holds a lone surrogate"),
        (np.float32("nan"), "params is nan"),
        (2**5000, "params is an integer of more than 4096 bits"),
        (object(), "params is a builtins.object"),
        (1j, "params is a builtins.complex"),
    ],
)
def test_what_cannot_be_a_key_is_refused_with_its_path(value, path):
    with pytest.raises(InvalidValue) as error:
        content_md5(value, "params")
    assert str(error.value).startswith(path)


def test_endless_nesting_is_refused():
    value: list = []
    value.append(value)
    with pytest.raises(InvalidValue, match="nested more than 64 deep"):
        content_md5(value)


def test_keys_do_not_depend_on_the_process_or_its_hash_seed():
    value = {"b": [1e16, 1.0, -0.0, 2**70], "a": {"ü": "☃", "z": None}}
    program = f"from schemas.hashing import content_md5; print(content_md5({value!r}))"
    for seed in ("0", "1", "4711"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        printed = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        assert printed.stdout.strip() == content_md5(value)


def test_a_key_is_pinned_for_ever():
    assert content_md5({"hidden_size": 1000, "dropout": 0.5}) == "6da63ccaf62229fd290fbe73213c41b0"
