"""Packed data from the files to the result: shards follow their manifest wherever it is needed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from datasets_impl.packing import pack
from pipeline.collector import Collector
from pipeline.session import Session
from schemas.errors import InvalidRow
from tests.unit.packing_fixtures import options, source, write_images
from trainloom import DatasetConfig, ModelConfig, TrainingConfig, TrainingResult, TrainingTask


def packed(session: Session, tmp_path: Path, **changes: Any) -> Path:
    """Packed images of two shards below the session's data folder."""
    listed = write_images(tmp_path / "images", 24)
    return pack(source(listed), session.folders.dataset_dir, "images", options(classes=3, shards=2, **changes))


def config(manifest: Path) -> dict[str, Any]:
    return {
        "dataset_file_name": f"{manifest.parent.name}/{manifest.name}",
        "dataset_class_module_name": "datasets_impl.packed",
        "dataset_class_name": "PackedDataset",
    }


def task_on(dataset: Any) -> Any:
    models = ModelConfig().insert_tuples(
        {
            "model_class_module_name": "models_impl.simple_mlp",
            "model_class_name": "SimpleMLP",
            "model_class_params": {"hidden_size": 4},
        }
    )
    trainings = TrainingConfig().insert_tuples(
        {
            "batch_size": 4,
            "epoch_limit": 1,
            "optimizer_class_module_name": "torch.optim",
            "optimizer_class_name": "SGD",
            "optimizer_class_params": {"lr": 0.01},
            "criterion_class_module_name": "torch.nn",
            "criterion_class_name": "CrossEntropyLoss",
        }
    )
    return TrainingTask().insert_grid(dataset, models, trainings)


def test_a_configuration_of_packed_data_knows_its_shards_and_their_origin(session: Session, tmp_path: Path) -> None:
    manifest = packed(session, tmp_path)
    key = DatasetConfig().insert_tuples(config(manifest))[0]
    row = (DatasetConfig() & key).fetch1()
    assert row["input_shape"] == [3, 5, 4]
    assert row["output_shape"] == [3]
    origin = (DatasetConfig.Origin() & key).fetch1()
    assert sorted(origin["dataset_companions"]) == ["shard-00000.h5", "shard-00001.h5"]
    assert origin["dataset_origin"]["source"]["list"] == "list.csv"
    assert DatasetConfig().insert_tuples(config(manifest)).new == []
    for sha256 in (row["dataset_file_sha256"], *origin["dataset_companions"].values()):
        assert session.store.stat(sha256).kind == "dataset"
    owned, unowned = Collector(session).usage()
    assert owned["dataset"][0] == 3
    assert "dataset" not in unowned
    (DatasetConfig() & key).delete(prompt=False)
    assert len(DatasetConfig.Origin() & key) == 0


def test_a_node_without_the_data_trains_from_the_store(postgres_session: Session, tmp_path: Path) -> None:
    manifest = packed(postgres_session, tmp_path, encoder="png")
    tasks = task_on(DatasetConfig().insert_tuples(config(manifest)))
    shutil.rmtree(manifest.parent)
    TrainingResult().populate(tasks)
    assert len(TrainingResult() & tasks) == 1
    assert len(list(postgres_session.folders.dataset_cache_dir.glob("*/*/shard-*.h5"))) == 2


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_shard_that_is_not_what_the_manifest_says_is_refused(
    postgres_session: Session, tmp_path: Path, damage: str
) -> None:
    manifest = packed(postgres_session, tmp_path)
    shard = manifest.parent / "shard-00001.h5"
    content = bytearray(shard.read_bytes())
    shard.unlink()
    if damage == "changed":
        content[-1] ^= 1
        shard.write_bytes(content)
    with pytest.raises(InvalidRow, match="does not exist" if damage == "missing" else "other content"):
        DatasetConfig().insert_tuples(config(manifest))
    assert len(DatasetConfig()) == 0
