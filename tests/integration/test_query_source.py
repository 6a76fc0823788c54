"""Packing rows of a lab's own DataJoint tables, and noticing when they change."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

from datasets_impl import packed_manifest
from datasets_impl.column_choice import choose_columns
from datasets_impl.packed import PackedTier
from datasets_impl.packing import pack
from datasets_impl.packing_options import PackingOptions
from datasets_impl.packing_source import PackingError, SourceChanged
from datasets_impl.tier_split import TierSplit
from pipeline.packed_check import content_sha256, differences, reopen
from pipeline.query_source import QuerySource
from pipeline.session import Session
from pipeline.trace import render, trace
from tests.integration.test_packed_data import config, task_on
from trainloom import DatasetConfig

ROWS = 40


@pytest.fixture
def lab(session: Session) -> Iterator[Any]:
    """Two subjects with 20 trials each, a 3-vector and a label per trial; the schema's name and its tables."""
    name = f"{session.settings.schema_name}_lab"
    schema = dj.Schema(name, connection=session.connection)

    class Subject(dj.Manual):
        definition = """
        subject : varchar(16)
        """

    class Trial(dj.Manual):
        definition = """
        -> Subject
        trial : int32
        ---
        response : <blob>
        speed : float64
        side : int32
        part : varchar(16)
        """

    for table in (Subject, Trial):
        schema(table, context={"Subject": Subject})
    Subject().insert([{"subject": "a"}, {"subject": "b"}])
    parts = ("train", "train", "validation", "test")
    Trial().insert(
        {
            "subject": "ab"[number // 20],
            "trial": number % 20,
            "response": np.asarray([number, 1, 2], np.float32),
            "speed": number / 3,
            "side": number % 2,
            "part": parts[number % 4],
        }
        for number in range(ROWS)
    )
    Trial.schema_name = name
    yield Trial
    schema.drop(prompt=False)


def trainloom(*arguments: Any, code: int = 0) -> str:
    """Run the command in a process of its own; what it printed."""
    command = [sys.executable, "-m", "trainloom", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def source(session: Session, lab: Any, *restriction: str) -> QuerySource:
    attributes = ["response", "speed", "side", "part"]
    return QuerySource(session.connection, [f"{lab.schema_name}.Trial"], restriction, attributes)


def options(found: QuerySource, **changes: Any) -> PackingOptions:
    columns = choose_columns(found, inputs=["response", "speed"], targets=["side"], apart=["part"])
    return PackingOptions(columns=columns, split=changes.pop("split", TierSplit(column="part")), **changes)


def test_rows_of_a_query_are_packed_with_their_keys(session: Session, lab: Any, tmp_path: Path) -> None:
    found = source(session, lab, "speed > 1", "trial < 18")
    path = pack(found, tmp_path, "trials", options(found, shards=2))
    manifest = packed_manifest.read(path)
    expected = [number for number in range(ROWS) if number / 3 > 1 and number % 20 < 18]
    assert manifest.source["rows"] == len(expected)
    assert manifest.source["restriction"] == ["speed > 1", "trial < 18"]
    assert "SELECT" in manifest.source["sql"]
    assert any("subject" in name for name in manifest.source["ancestors"])
    responses = []
    for tier in ("train", "validation", "test"):
        opened = PackedTier(path, tier)
        rows = np.arange(opened.length)
        packed = opened.read(opened.manifest.column("response"), rows)
        assert packed.dtype == np.float32
        numbers = packed[:, 0].astype(int).tolist()
        assert opened.read(opened.manifest.column("side"), rows).tolist() == [number % 2 for number in numbers]
        np.testing.assert_array_equal(opened.read(opened.manifest.column("speed"), rows), np.asarray(numbers) / 3)
        responses += numbers
    assert sorted(responses) == expected


def test_a_changed_query_is_noticed_row_by_row(session: Session, lab: Any, tmp_path: Path) -> None:
    found = source(session, lab)
    asked = options(found)
    path = pack(found, tmp_path, "trials", asked)
    manifest = packed_manifest.read(path)
    assert content_sha256(source(session, lab), asked) == manifest.source["sha256"]
    assert not differences(path, reopen(manifest.source, asked, session.connection))
    lab().update1({"subject": "a", "trial": 3, "speed": 99.0})
    (lab() & {"subject": "b", "trial": 0}).delete(prompt=False)
    values = {"response": np.zeros(3, np.float32), "speed": 0.5, "side": 0, "part": "test"}
    lab().insert1({"subject": "a", "trial": 20, **values})
    told = differences(path, source(session, lab))
    assert [list(map(json.loads, names)) for names in (told.changed, told.gone, told.added)] == [
        [{"subject": "a", "trial": 3}],
        [{"subject": "b", "trial": 0}],
        [{"subject": "a", "trial": 20}],
    ]
    assert content_sha256(source(session, lab), asked) != manifest.source["sha256"]


@pytest.mark.slow
@pytest.mark.feature("B1")
def test_trace_goes_up_into_the_labs_tables_and_says_what_changed(
    session: Session, lab: Any, caplog: pytest.LogCaptureFixture
) -> None:
    command = ["data", "pack", "--from-table", f"{lab.schema_name}.Trial", "--restrict", "trial < 16"]
    columns = ["--input", "response", "--target", "side", "--split-column", "part", "--classes", "2", "--json"]
    manifest = Path(json.loads(trainloom(*command, *columns))["manifest"])
    with caplog.at_level(logging.WARNING, logger="trainloom"):
        tasks = task_on(DatasetConfig().insert_tuples(config(manifest)))
    assert "returns other rows" not in caplog.text
    traced = trace(tasks[0])
    assert traced["dataset"]["query_changed"] is False
    assert traced["dataset"]["origin"]["source"]["tables"] == [f"{lab.schema_name}.Trial"]
    text = render(traced)
    assert f"packed from {lab.schema_name}.Trial where trial < 16: 32 rows" in text
    assert f"{lab.schema_name}.subject" in text
    lab().update1({"subject": "a", "trial": 3, "side": 0})
    assert "returns other rows or values now" in render(trace(tasks[0]))
    assert trace(tasks[0], check=False)["dataset"]["query_changed"] is None
    assert '1 rows of the source changed: {"subject": "a", "trial": 3}' in trainloom("data", "check", manifest, code=1)
    with caplog.at_level(logging.WARNING, logger="trainloom"):
        DatasetConfig().insert_tuples({**config(manifest), "dataset_type": "again"})
    assert "returns other rows or values now" in caplog.text


def test_packing_stops_where_rows_go_meanwhile(session: Session, lab: Any, tmp_path: Path) -> None:
    found = source(session, lab)
    asked = options(found)
    (lab() & {"subject": "b", "trial": 19}).delete(prompt=False)
    with pytest.raises(SourceChanged, match="returns other rows than when the packing began"):
        pack(found, tmp_path, "trials", asked)
    assert not list(tmp_path.glob("trials-*"))


def test_queries_that_cannot_be_packed_are_one_sentence(session: Session, lab: Any, tmp_path: Path) -> None:
    for tables, restriction, message in (
        ("{}.Trial", "trial > 100", "returns no row"),
        ("{}.Trial", "no_such_column > 1", "cannot be run"),
        ("{}.Nothing", "", "has no table 'Nothing'"),
        ("{}.schema", "", "has no table 'schema'"),
        ("{}.__class__", "", "has no table '__class__'"),
        ("no_such_schema.Trial", "", "the schema 'no_such_schema'"),
        ("Trial", "", "names no table"),
    ):
        with pytest.raises(PackingError, match=message):
            QuerySource(session.connection, [tables.format(lab.schema_name)], [restriction] if restriction else [])
    found = source(session, lab)
    columns = choose_columns(found, inputs=["response"], targets=["part"], dtypes={"part": "int64"})
    with pytest.raises(PackingError, match="in column 'part', which is no int64"):
        pack(found, tmp_path, "trials", PackingOptions(columns=columns))
    assert not list(tmp_path.glob("trials-*"))
