"""The populate script as a process of its own, as a person or a pod starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datasets_impl.digits import build_digits
from trainloom import DatasetConfig, ModelConfig, TrainingConfig, TrainingResult, TrainingTask

EXAMPLES = Path(__file__).parents[2] / "examples"


def populate(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the script in `folder`."""
    script = shutil.copy(EXAMPLES / "populate_script.py", folder)
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tasks(open_session: Any, tmp_path: Path) -> Any:
    """Two tasks on digits that lie outside the session's folders and are not in the store either."""
    open_session(mirror_datasets=False)
    (tmp_path / "lab").mkdir()
    build_digits(tmp_path / "lab" / "digits.h5")
    datasets = DatasetConfig(dataset_dir=str(tmp_path / "lab")).insert_tuples(
        {
            "dataset_file_name": "digits.h5",
            "dataset_class_module_name": "datasets_impl.digits",
            "dataset_class_name": "DigitsDataset",
        }
    )
    models = ModelConfig().insert_tuples(
        {
            "model_class_module_name": "models_impl.simple_mlp",
            "model_class_name": "SimpleMLP",
            "model_class_params": {"hidden_size": 8},
        }
    )
    trainings = TrainingConfig().insert_tuples(
        {
            "batch_size": 64,
            "epoch_limit": 2,
            "optimizer_class_module_name": "torch.optim",
            "optimizer_class_name": "Adam",
            "criterion_class_module_name": "torch.nn",
            "criterion_class_name": "CrossEntropyLoss",
        }
    )
    return TrainingTask().insert_grid(datasets, models, trainings, seeds=[0, 1])


@pytest.mark.feature("S15", "S18")
def test_it_trains_everything_with_the_folders_and_loader_processes_of_its_arguments(
    tasks: Any, tmp_path: Path
) -> None:
    folders = {
        name: str(tmp_path / name.strip("-")) for name in ("--dataset-dir", "--dataset-cache-dir", "--model-save-dir")
    }
    shutil.move(tmp_path / "lab", folders["--dataset-dir"])
    arguments = ("1", *(part for pair in folders.items() for part in pair))

    first = populate(tmp_path, *arguments)
    assert (first.returncode, first.stdout, first.stderr) == (0, "trained 2, failed 0\n", "")
    assert len(TrainingResult & tasks) == 2
    assert any(path.name == "digits.h5" for path in Path(folders["--dataset-cache-dir"]).rglob("*"))
    assert list(Path(folders["--model-save-dir"]).iterdir())
    assert not (tmp_path / "models").exists()

    second = populate(tmp_path, *arguments)
    assert (second.returncode, second.stdout) == (0, "trained 0, failed 0\n")


def test_a_task_that_fails_keeps_it_from_none_of_the_others_and_makes_it_exit_with_1(
    tasks: Any, tmp_path: Path
) -> None:
    broken = TrainingConfig().insert_tuples(
        {
            "batch_size": 64,
            "epoch_limit": 2,
            "optimizer_class_module_name": "torch.optim",
            "optimizer_class_name": "SGD",
            "optimizer_class_params": {"lr": 1e30},
            "criterion_class_module_name": "torch.nn",
            "criterion_class_name": "CrossEntropyLoss",
        }
    )
    [failing] = TrainingTask().insert_grid(DatasetConfig, ModelConfig, broken)
    done = populate(tmp_path, "--dataset-dir", str(tmp_path / "lab"))
    assert (done.returncode, done.stdout) == (1, "trained 2, failed 1\n")
    assert failing["training_task_md5_hash"][:8] in done.stderr
    assert "infinite or not a number" in done.stderr
    assert len(TrainingResult & tasks) == 2


@pytest.mark.usefixtures("project_environment")
def test_without_a_usable_configuration_it_exits_with_78_and_one_sentence(tmp_path: Path) -> None:
    done = populate(tmp_path, TRAINLOOM_NUM_WORKERS="many")
    assert done.returncode == 78
    assert done.stderr.startswith("error: num_workers from the environment variable TRAINLOOM_NUM_WORKERS")
    assert done.stderr.count("\n") == 1


def test_it_makes_no_home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINLOOM_HOME", raising=False)
    done = populate(tmp_path)
    assert done.returncode == 78
    assert "no trainloom home" in done.stderr
    assert not (tmp_path / ".trainloom").exists()
