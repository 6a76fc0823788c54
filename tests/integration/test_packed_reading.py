"""Trainings on packed data that are changed at random and read by functions of one's own, as a row names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.session import Session
from schemas.errors import InvalidRow
from tests.integration.test_packed_data import config, packed, task_on
from trainloom import DatasetConfig, TrainingResult

TRANSFORMS = [
    {"name": "flip", "horizontal": 0.5},
    {"name": "crop", "area": [0.5, 1.0], "height": 4, "width": 4},
    {"name": "rotate", "degrees": [-10, 10]},
    {"name": "brighten", "factor": [0.8, 1.2]},
    {"name": "contrast", "factor": [0.8, 1.2]},
    {"name": "saturate", "factor": [0.5, 1.5]},
]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of a lab's own beside the work, with a function that prepares examples; its name."""
    package = tmp_path / "reading_lab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "examples.py").write_text(
        "def centred(example):\n    return {**example, 'image': example['image'].astype('float32') / 255 - 0.5}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TRAINLOOM_ALLOWED_PACKAGES", "reading_lab")
    return "reading_lab"


def with_params(manifest: Path, **params: Any) -> dict[str, Any]:
    return {**config(manifest), "dataset_class_params": params}


@pytest.mark.feature("B4")
def test_augmented_trainings_give_the_same_numbers_with_any_number_of_loader_processes(
    postgres_session: Session, tmp_path: Path
) -> None:
    manifest = packed(postgres_session, tmp_path)
    losses = []
    for workers in (0, 2):
        dataset = DatasetConfig().insert_tuples(with_params(manifest, transforms=TRANSFORMS))
        assert (DatasetConfig() & dataset).fetch1("input_shape") == [3, 4, 4]
        tasks = task_on(dataset)
        TrainingResult(num_workers=workers).populate(tasks)
        losses.append((TrainingResult() & tasks).fetch1("training_epoch_loss_history"))
        (TrainingResult() & tasks).delete(prompt=False)
    assert losses[0] == losses[1]
    plain = task_on(DatasetConfig().insert_tuples(config(manifest)))
    TrainingResult().populate(plain)
    assert (TrainingResult() & plain).fetch1("training_epoch_loss_history") != losses[0]


@pytest.mark.feature("B3")
def test_a_row_names_functions_and_the_result_keeps_their_code(lab: str, open_session: Any, tmp_path: Path) -> None:
    session = open_session()
    manifest = packed(session, tmp_path)
    params = {"prepare": f"{lab}.examples:centred", "drop_last": False}
    tasks = task_on(DatasetConfig().insert_tuples(with_params(manifest, **params)))
    TrainingResult().populate(tasks)
    code = (TrainingResult.Provenance() & tasks).fetch1("code")
    assert code["dataset_prepare"]["class"] == "centred"
    assert code["dataset_prepare"]["module"] == f"{lab}.examples"
    texts = (TrainingResult.Provenance() & tasks).fetch1("code_texts")
    assert "example['image'].astype" in texts[code["dataset_prepare"]["sha256"]]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("os:system", "os"),
        ("reading_lab.examples:missing", "has no function missing"),
        ("reading_lab.nowhere:centred", "there is no module reading_lab.nowhere"),
        ("centred", "named as my_package.my_module:my_function"),
        (3, "named as my_package.my_module:my_function"),
    ],
)
def test_a_function_that_cannot_be_had_is_said_at_insertion(
    lab: str, open_session: Any, tmp_path: Path, function: Any, message: str
) -> None:
    session = open_session()
    manifest = packed(session, tmp_path)
    with pytest.raises(InvalidRow, match=message):
        DatasetConfig().insert_tuples(with_params(manifest, prepare=function))
    assert len(DatasetConfig()) == 0
