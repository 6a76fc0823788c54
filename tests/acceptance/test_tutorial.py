"""The tutorial's own calls, with classes written only from the catalogue, on PostgreSQL and on MariaDB."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainloom import DatasetConfig, ModelConfig, TrainingConfig, TrainingResult, TrainingTask

LAB_CODE = Path(__file__).parent / "lab_code"
WEIGHTS = np.array([1.0, -2.0, 0.5])


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    """Two data files with the truth y = x·(1, -2, 0.5) + 3."""
    folder = tmp_path / "shared_datasets"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(2):
        lines = []
        for tier, count in (("train", 203), ("validation", 50), ("test", 50)):
            for x in generator.normal(size=(count, 3)):
                lines.append(",".join([tier, *map(str, x), str(x @ WEIGHTS + 3)]))
        (folder / f"session_{number}.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def lab_session(backend: str, open_session: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return open_session(allowed_packages=("our_lab",), code_dir=LAB_CODE)


@pytest.mark.filterwarnings("ignore:fetch\\(\\) is deprecated:DeprecationWarning")  # the tutorial calls it
@pytest.mark.feature("S1", "S2", "S3", "S4", "S5", "S6", "S8", "S10", "S11", "S12", "S14", "S18", "S20")
def test_the_tutorial_as_written(lab_session: Any, dataset_dir: Path, tmp_path: Path) -> None:
    dataset_cache_dir, model_save_dir = str(tmp_path / "dataset_cache"), str(tmp_path / "model_storage")
    dataset_config = DatasetConfig(dataset_dir=str(dataset_dir), dataset_cache_dir=dataset_cache_dir)
    model_config, training_config, training_task = ModelConfig(), TrainingConfig(), TrainingTask()

    dataset_file_names = os.listdir(dataset_dir)
    tuple_dicts_to_insert = []
    for dataset_file_name in dataset_file_names:
        tuple_dict = dict(
            dataset_file_name=dataset_file_name,
            dataset_type="CsvDataset",
            dataset_class_module_name="our_lab.dataset",
            dataset_class_name="CsvDataset",
            dataset_class_params=dict(scale=1.0),
            train_sampler_module_name="",
            train_sampler_class_name="",
            train_sampler_class_params=dict(),
            validation_sampler_module_name="",
            validation_sampler_class_name="",
            validation_sampler_class_params=dict(),
            test_sampler_module_name="",
            test_sampler_class_name="",
            test_sampler_class_params=dict(),
        )
        tuple_dicts_to_insert.append(tuple_dict)
    before = [dict(row) for row in tuple_dicts_to_insert]
    inserted = dataset_config.insert_tuples(tuple_dicts_to_insert)
    assert len(inserted.new) == 2
    assert tuple_dicts_to_insert == before
    assert dataset_config.insert_tuples(tuple_dicts_to_insert).new == []

    model_config.insert_tuples(
        [
            dict(model_class_module_name="our_lab.model", model_class_name="Linear", model_class_params=dict(l2=l2))
            for l2 in (0.0, 0.1)
        ]
    )
    training_config.insert_tuples(
        [
            dict(
                trainer_class_module_name="our_lab.trainer",
                trainer_class_name="PlainTrainer",
                trainer_class_params=dict(),
                batch_size=20,
                epoch_limit=30,
                optimizer_class_module_name="torch.optim",
                optimizer_class_name="SGD",
                optimizer_class_params=dict(lr=0.05),
                criterion_class_module_name="torch.nn",
                criterion_class_name="MSELoss",
                criterion_class_params=dict(),
            )
        ]
    )

    dataset_config_keys = (DatasetConfig).fetch("KEY")
    model_config_keys = (ModelConfig).fetch("KEY")
    training_config_keys = (TrainingConfig).fetch("KEY")
    tuple_dicts = []
    for dataset_config_key in dataset_config_keys:
        for model_config_key in model_config_keys:
            for training_config_key in training_config_keys:
                tuple_dict = dict()
                tuple_dict.update(dataset_config_key)
                tuple_dict.update(model_config_key)
                tuple_dict.update(training_config_key)
                tuple_dicts.append(tuple_dict)
    keys = training_task.insert_tuple(tuple_dicts)
    assert len(keys.new) == 4

    training_result = TrainingResult(
        dataset_dir=str(dataset_dir), dataset_cache_dir=dataset_cache_dir, model_save_dir=model_save_dir, num_workers=0
    )
    assert training_result.populate(reserve_jobs=True, order="random") == {"success_count": 4, "error_list": []}
    assert training_result.populate(reserve_jobs=True, order="random") == {"success_count": 0, "error_list": []}

    unregularised = (TrainingResult & (TrainingTask & (ModelConfig & {"model_config_md5_hash": _plain_model()}))).fetch(
        "KEY"
    )
    for key in unregularised:
        row = (TrainingResult & key).fetch1()
        assert row["test_score"] < 1e-3
        assert len(row["training_epoch_loss_history"]) == 30
        assert row["model_save_path"].startswith("trainloom://")
        trainer = training_result.get_trainer(key)
        np.testing.assert_allclose(trainer.model.linear.weight.detach().numpy()[0], WEIGHTS, atol=0.02)
        evaluated = training_result.get_test_set_outputs_targets_and_losses(key)
        assert evaluated["outputs"].shape == evaluated["targets"].shape == (50, 1)
        assert evaluated["loss"] == pytest.approx(row["test_score"])
        axes = training_result.plot_training_epoch_loss_history(key)
        assert list(axes.get_lines()[0].get_ydata()) == row["training_epoch_loss_history"]
        notes = (TrainingResult.Provenance & key).fetch1("notes")
        assert any("takes no checkpoints" in note for note in notes)


def _plain_model() -> str:
    for row in ModelConfig().to_dicts():
        if row["model_class_params"] == {"l2": 0.0}:
            return str(row["model_config_md5_hash"])
    raise AssertionError("the model without regularisation is missing")
