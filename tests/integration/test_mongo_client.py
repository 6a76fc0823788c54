"""Options of a MongoDB URL reach the client and what the store does with it; no server answers here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo import ReadPreference
from pymongo.read_preferences import Nearest, SecondaryPreferred

from pipeline.errors import ConfigurationError
from pipeline.store.gridfs import GridFSStore
from pipeline.store.mongo_client import open_client

SERVERS = "mongodb://127.0.0.1:1,127.0.0.1:2"


@pytest.fixture
def client() -> Iterator[Callable[[str], Any]]:
    opened: list[Any] = []

    def make(url: str) -> Any:
        opened.append(open_client(url, selection_timeout=100))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.mark.feature("S17")
def test_read_preference_and_staleness_come_from_the_url(client: Callable[[str], Any]) -> None:
    options = "replicaSet=rs&readPreference=secondaryPreferred&maxStalenessSeconds=120&readPreferenceTags=rack:a"
    database = client(f"{SERVERS}/?{options}")["lab"]
    wanted = SecondaryPreferred(tag_sets=[{"rack": "a"}], max_staleness=120)
    assert database.read_preference == wanted
    store = GridFSStore(lambda: database)
    assert store._database["objects.chunks"].read_preference == wanted, "the bytes are read where the URL says"
    assert store._files.read_preference == ReadPreference.PRIMARY, "which objects there are only the primary knows"
    assert client(f"{SERVERS}/?readPreference=nearest")["lab"].read_preference == Nearest()


def test_writes_wait_for_the_majority_unless_the_url_says_otherwise(client: Callable[[str], Any]) -> None:
    assert client(f"{SERVERS}/?replicaSet=rs").write_concern.document == {"w": "majority"}
    assert client(f"{SERVERS}/?replicaSet=rs&w=2").write_concern.document == {"w": 2}


def test_a_preference_that_cannot_be_is_refused_without_the_password() -> None:
    with pytest.raises(ConfigurationError, match="^mongo_url cannot be used: .*; correct it$") as refused:
        open_client("mongodb://reader:hush@127.0.0.1:1/?replicaSet=rs&maxStalenessSeconds=90")  # of the primary
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("option", ["readPreference=sometimes", "readPreference=secondary&maxStalenessSeconds=x"])
def test_an_option_that_the_driver_leaves_out_is_said(client: Callable[[str], Any], option: str) -> None:
    with pytest.warns(UserWarning, match="sometimes|maxstalenessseconds") as said:
        client(f"mongodb://reader:hush@127.0.0.1:1/?replicaSet=rs&{option}")
    assert all("hush" not in str(warning.message) for warning in said)
