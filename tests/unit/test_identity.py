"""Which row a configuration is, while defaults change and parameters come and go."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DamagedRow
from schemas.identity import Identity, Known, StoredText
from schemas.parameters import REQUIRED, Signature, bind

VALUES = st.integers(0, 3) | st.floats(0, 3) | st.sampled_from(["", "1", None, True, [], {}])


class Table:
    """A table in memory that inserts as a configuration table does."""

    def __init__(self, **defaults):
        self.texts: dict[str, str] = {}
        self.change(**defaults)

    def change(self, **defaults):
        """The class's signature from now on."""
        self.signature = Signature("Class", defaults, frozenset(), False, frozenset())

    def insert(self, **params) -> str:
        identity = Identity("table", {"name": "Class"}, {"params": bind(self.signature, params, "params")})
        key, text, self.said = Known("table", self.texts, lambda *_: self.signature.recorded).find(identity)
        self.texts.setdefault(key, text)
        return key

    def complete(self, key: str) -> dict:
        return StoredText.read(key, self.texts[key], "table").complete["params"]


def test_no_parameters_and_an_explicit_default_are_one_row():
    table = Table(a=1, b="x")
    assert table.insert() == table.insert(a=1) == table.insert(b="x", a=1)
    assert len(table.texts) == 1
    assert table.complete(table.insert()) == {"a": 1, "b": "x"}


def test_a_gained_parameter_changes_no_key():
    table = Table(a=1)
    before = table.insert(), table.insert(a=2)
    table.change(a=1, new=0)
    assert (table.insert(), table.insert(a=2)) == before
    assert table.insert(new=0) == before[0]
    assert table.insert(new=5) not in before


def test_a_lost_parameter_changes_no_key_of_rows_that_left_it_alone():
    table = Table(a=1, gone=7)
    before = table.insert(a=2)
    table.change(a=1)
    assert table.insert(a=2) == before


def test_after_a_changed_default_old_and_new_values_find_or_make_their_own_row():
    table = Table(a=1)
    old = table.insert()
    table.change(a=2)
    new = table.insert()
    assert table.said
    assert new != old
    assert table.complete(new) == {"a": 2}
    assert table.complete(old) == {"a": 1}
    assert table.insert(a=1) == old
    assert table.insert(a=2) == new == table.insert()
    table.change(a=1)
    assert table.insert() == old
    assert table.insert(a=2) == new
    assert len(table.texts) == 2


def test_a_default_that_changed_while_a_parameter_was_gained_still_finds_the_old_row():
    table = Table(a=1)
    old = table.insert()
    table.change(a=2, new=0)
    assert table.insert(a=1) == old
    assert table.insert(a=1, new=0) == old
    assert table.insert() != old


def test_a_parameter_that_lost_its_default_finds_the_row_that_had_it():
    table = Table(a=1, b=0)
    old = table.insert()
    table.change(a=REQUIRED, b=0)
    assert table.insert(a=1) == old


@given(st.lists(st.tuples(st.dictionaries(st.sampled_from("ab"), VALUES), VALUES, VALUES), min_size=1, max_size=8))
def test_rows_are_never_mixed_up_whatever_defaults_do(history):
    """Each insertion ends at a row that holds exactly the complete set it asked for, and at the same one when asked
    again."""
    table = Table(a=0, b=0)
    for params, a, b in history:
        table.change(a=a, b=b)
        key = table.insert(**params)
        wanted = {"a": a, "b": b, **params}
        assert json.dumps(table.complete(key), sort_keys=True) == json.dumps(wanted, sort_keys=True)
        assert table.insert(**wanted) == key


@pytest.mark.parametrize(("old", "new"), [('"hashed":{', '"hashed":{"x":1,'), ('"a":3', '"a":4'), ("{", "")])
def test_a_changed_text_is_noticed(old, new):
    table = Table(a=1)
    key = table.insert(a=3)
    with pytest.raises(DamagedRow, match=f"table {key[:8]}"):
        StoredText.read(key, table.texts[key].replace(old, new), "table")
