"""Configuration rows on both backends: what comes back is what went in, and its key can be made again from it."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.session import Session
from pipeline.training_spec import read_spec
from schemas.errors import DamagedRow
from schemas.hashing import content_md5, text_of
from schemas.identity import StoredText
from tests.integration.test_bad_input import DATASET, MODEL, TRAINING, write
from trainloom import DatasetConfig, ModelConfig, TrainingConfig, TrainingResult, TrainingTask

OPEN_MODEL = """
import torch

class Anything(torch.nn.Module):
    def __init__(self, input_shape, output_shape, {parameters}**params):
        super().__init__()
        self.params = params

    def forward(self, x):
        return x
"""
ANYTHING = {"model_class_module_name": "our_anything", "model_class_name": "Anything"}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abä☃", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes a model class that takes any parameter, besides named ones such as ``width=1, ``."""
    monkeypatch.syspath_prepend(tmp_path)

    def write_module(parameters: str = "") -> None:
        sys.modules.pop("our_anything", None)
        (tmp_path / "our_anything.py").write_text(OPEN_MODEL.format(parameters=parameters))

    write_module()
    monkeypatch.setenv("TRAINLOOM_ALLOWED_PACKAGES", "our_anything")
    return write_module


@pytest.fixture
def own_session(anything: Callable[..., None], session: Session) -> Session:
    return session


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(params=st.dictionaries(st.text("abc", min_size=1, max_size=3), VALUES, max_size=3))
@pytest.mark.feature("S2", "S6")
def test_every_key_can_be_made_again_from_what_is_fetched(own_session: Session, params: dict[str, Any]) -> None:
    row = {**ANYTHING, "model_class_params": params}
    before = copy.deepcopy(row)
    key = ModelConfig().insert_tuples(row)[0]
    assert text_of(row) == text_of(before)
    fetched = (ModelConfig() & key).fetch1()
    stored = ModelConfig().read(fetched)
    assert text_of(stored.complete["model_class_params"]) == text_of(params)
    hashed = {"table": "model_config", "form": "sparse", "fields": stored.fields, "params": stored.sparse}
    assert content_md5(hashed) == key["model_config_md5_hash"]
    assert ModelConfig().insert_tuples(row).new == []


@pytest.mark.parametrize(
    "value", [1e16, 1.0, -0.0, 1e-320, 2**63, 10**300, "\\u0000", 'a"b', "☃\U0001f600", "\u2028", [], {}, "", None]
)
def test_unusual_values_come_back_as_they_were(own_session: Session, value: Any) -> None:
    key = ModelConfig().insert_tuples({**ANYTHING, "model_class_params": {"x": value}})[0]
    stored = ModelConfig().read((ModelConfig() & key).fetch1())
    assert text_of(stored.complete["model_class_params"]["x"]) == text_of(value)


def test_inserting_again_changes_nothing_and_keys_come_back_in_order(session: Session) -> None:
    rows = [{**MODEL, "model_class_params": {"hidden_size": size}} for size in (3, 1, 2, 3)]
    keys = ModelConfig().insert_tuples(rows)
    assert keys[0] == keys[3]
    assert len(keys.new) == 3
    assert ModelConfig().insert_tuples(reversed(rows)) == list(reversed(keys))
    assert ModelConfig().insert_tuples(rows).new == []
    assert [ModelConfig().insert_tuple(row)[0] for row in rows] == keys


def test_a_json_column_can_be_queried(session: Session) -> None:
    ModelConfig().insert_tuples([{**MODEL, "model_class_params": {"hidden_size": size}} for size in (8, 16)])
    sizes = [row["model_class_params"]["hidden_size"] for row in ModelConfig().to_dicts()]
    assert sorted(sizes) == [8, 16]


def test_a_row_that_was_changed_by_hand_is_noticed(session: Session) -> None:
    key = TrainingConfig().insert_tuples(TRAINING)[0]
    row = (TrainingConfig() & key).fetch1()
    text = row["training_config_text"]["text"].replace("0.01", "0.02")
    TrainingConfig().update1({**key, "training_config_text": {"text": text}})
    with pytest.raises(DamagedRow, match="was changed after its insertion"):
        TrainingConfig().read((TrainingConfig() & key).fetch1())


def test_a_changed_default_is_said_and_both_rows_are_kept(
    anything: Callable[..., None], open_session: Callable[..., Session], caplog: pytest.LogCaptureFixture
) -> None:
    anything("width=1, ")
    session = open_session()
    old = ModelConfig().insert_tuples(ANYTHING)
    session.close()
    anything("width=2, depth=0, ")
    open_session()
    with caplog.at_level(logging.WARNING, "trainloom"):
        new = ModelConfig().insert_tuples(ANYTHING)
    assert "a default of its classes has changed" in caplog.text
    assert len(new.new) == 1
    assert ModelConfig().insert_tuples({**ANYTHING, "model_class_params": {"width": 1}}) == old
    assert ModelConfig().insert_tuples({**ANYTHING, "model_class_params": {"width": 2}}) == new
    stored = ModelConfig().read((ModelConfig() & old[0]).fetch1())
    assert stored.complete["model_class_params"] == {"width": 1}


@pytest.mark.feature("S4", "S14")
def test_a_grid_is_every_combination_and_priority_is_no_part_of_a_key(session: Session) -> None:
    write(session.folders.dataset_dir / "data.h5")
    DatasetConfig().insert_tuples(DATASET)
    ModelConfig().insert_tuples([{**MODEL, "model_class_params": {"hidden_size": size}} for size in (4, 8)])
    trainings = TrainingConfig().insert_tuples([{**TRAINING, "batch_size": size} for size in (5, 10)])
    grid = TrainingTask().insert_grid(DatasetConfig & "dataset_type = ''", ModelConfig, trainings, seeds=[0, 1, 2])
    assert len(grid) == len(grid.new) == 12
    assert TrainingTask().insert_grid(trainings=trainings[:1], seeds=range(3), priority=1).new == []
    assert {row["priority"] for row in TrainingTask().to_dicts()} == {5}
    versioned = TrainingTask().insert_grid(trainings=trainings[:1], seeds=[0], code_version="2")
    assert len(versioned.new) == 2


@pytest.mark.feature("S1", "S7")
def test_a_dataset_is_probed_and_identified_by_its_content(session: Session) -> None:
    path = session.folders.dataset_dir / "data.h5"
    write(path)
    key = DatasetConfig().insert_tuples(DATASET)[0]
    row = (DatasetConfig() & key).fetch1()
    assert row["input_shape"] == [4]
    assert row["output_shape"] == [3]
    assert row["example_counts"] == {"train": 40, "validation": 12, "test": 12}
    assert session.store.stat(row["dataset_file_sha256"]).size == path.stat().st_size
    assert DatasetConfig().insert_tuples(DATASET).new == []
    path.unlink()
    write(path, validation=None)
    write(path)
    with path.open("ab") as file:
        file.write(b"\0")
    assert len(DatasetConfig().insert_tuples(DATASET).new) == 1


def test_run_parameters_make_no_new_row(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    write(session.folders.dataset_dir / "data.h5")
    params = {**DATASET["dataset_class_params"], "memory_budget": 1 << 20}
    key = DatasetConfig().insert_tuples({**DATASET, "dataset_class_params": params})
    with caplog.at_level(logging.WARNING, "trainloom"):
        again = DatasetConfig().insert_tuples({**DATASET, "dataset_class_params": {**params, "memory_budget": 5}})
    assert again == key
    assert again.new == []
    assert "run parameters do not make a new row" in caplog.text
    stored = DatasetConfig().read((DatasetConfig() & key[0]).fetch1())
    assert stored.run == {"dataset_class_params": {"memory_budget": 1 << 20}}


def test_a_training_reads_its_parameters_from_the_text_not_from_json(
    anything: Callable[..., None], open_session: Callable[..., Session]
) -> None:
    from schemas.binding import services

    session = open_session()
    write(session.folders.dataset_dir / "data.h5")
    keys = {
        **DatasetConfig().insert_tuples(DATASET)[0],
        **ModelConfig().insert_tuples({**ANYTHING, "model_class_params": {"x": 1e16, "y": [1.0]}})[0],
        **TrainingConfig().insert_tuples(TRAINING)[0],
    }
    task = TrainingTask().insert_tuples(keys)[0]
    spec = read_spec(TrainingResult.spec(task), services("test").resolver)
    assert text_of(spec.model_params["x"]) == "1e+16"
    assert text_of(spec.model_params["y"]) == "[1.0]"
    assert spec.model_params["input_shape"] == (4,)


def test_two_texts_of_one_table_never_read_as_those_of_another(session: Session) -> None:
    key = TrainingConfig().insert_tuples(TRAINING)[0]
    row = (TrainingConfig() & key).fetch1()
    with pytest.raises(DamagedRow):
        StoredText.read(key["training_config_md5_hash"], row["training_config_text"]["text"], "model_config")
