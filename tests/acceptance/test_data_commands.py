"""`trainloom data import` to a trained model: the same score as from a file of the same examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets_impl.digits import build_digits
from pipeline.cli.main import main
from schemas.attempt import Attempt
from schemas.errors import InvalidRow
from tests.integration.digits_tasks import training
from trainloom import DatasetConfig, ModelConfig, TrainingConfig, TrainingResult, TrainingTask, connect

Command = Callable[..., tuple[int, str, str]]

MLP = {
    "model_class_module_name": "models_impl.simple_mlp",
    "model_class_name": "SimpleMLP",
    "model_class_params": {"hidden_size": 16},
}
FILE = {
    "dataset_file_name": "digits.h5",
    "dataset_class_module_name": "datasets_impl.digits",
    "dataset_class_name": "DigitsDataset",
}
MONGO = {
    "dataset_file_name": "mongo:digits",
    "dataset_class_module_name": "datasets_impl.mongo",
    "dataset_class_name": "MongoDataset",
    "dataset_class_params": {"classes": 10},
}


@pytest.fixture
def command(project_environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `trainloom …`; gives its exit code, output and errors, and leaves no session open."""

    def run(*argv: str) -> tuple[int, str, str]:
        from pipeline import session as door

        capsys.readouterr()
        code = main(argv)
        if door._open is not None:
            door._open.close()
        return code, *capsys.readouterr()

    return run


def ask(dataset: dict[str, Any], **changes: Any) -> Any:
    """A task on this dataset."""
    return TrainingTask().insert_grid(
        DatasetConfig().insert_tuple(dataset),
        ModelConfig().insert_tuple(MLP),
        TrainingConfig().insert_tuple(training(epoch_limit=2, **changes)),
    )


@pytest.mark.feature("N5")
@pytest.mark.feature("N6")
@pytest.mark.feature("N7")
@pytest.mark.feature("T7")
def test_digits_out_of_mongodb_score_as_those_of_a_file_do(command: Command, tmp_path: Path) -> None:
    digits = build_digits(tmp_path / "datasets" / "digits.h5")
    code, out, err = command("data", "import", "digits", str(digits), "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["dataset"], told["count"], told["new"]) == ("mongo:digits", 1797, 1797)
    assert command("data", "import", "digits", str(digits))[1] == "mongo:digits has 1797 examples, 0 of them new\n"
    streamed = {
        **MONGO,
        "dataset_class_params": {**MONGO["dataset_class_params"], "memory_budget": 0},
        "dataset_type": "streamed",
    }
    few = {**MONGO, "dataset_class_params": {"classes": 5, "pipeline": [{"$match": {"targets": {"$lt": 5}}}]}}
    with connect(num_workers=1):
        keys = {name: ask(row) for name, row in {"file": FILE, "mongo": MONGO, "streamed": streamed}.items()}
        keys["few"] = ask(few)
        assert TrainingResult().populate(reserve_jobs=True) == {"success_count": 4, "error_list": []}
        results = {name: (TrainingResult() & key).fetch1() for name, key in keys.items()}
    for name in ("mongo", "streamed"):
        for column in ("test_score", "training_epoch_loss_history", "validation_epoch_loss_history"):
            assert results[name][column] == results["file"][column]
    assert results["few"]["test_score"] != results["file"]["test_score"]
    assert results["mongo"]["model_save_path"] == results["file"]["model_save_path"]  # the same bytes


def test_a_changed_example_ends_a_training_with_a_sentence(command: Command, tmp_path: Path) -> None:
    digits = build_digits(tmp_path / "datasets" / "digits.h5")
    assert command("data", "import", "digits", str(digits))[0] == 0
    with connect(max_attempts=1) as session:
        ask(MONGO)
        database = session.store._database.client[session.settings.mongo_database]
        documents = database[f"{session.settings.schema_name}.data.digits"]
        documents.delete_one({"_id": 0})
        TrainingResult().populate(reserve_jobs=True, suppress_errors=True)
        (attempt,) = Attempt().to_dicts()
        assert attempt["attempt_outcome"] == "failed"
        assert "mongo:digits changed since its configuration was inserted" in attempt["attempt_error"]
        before = DatasetConfig().fetch1("dataset_config_md5_hash")
        DatasetConfig().insert_tuple(MONGO)
        assert len(DatasetConfig()) == 2
        assert before in set(DatasetConfig().to_arrays("dataset_config_md5_hash"))


@pytest.mark.feature("N5")
def test_a_csv_file_becomes_a_dataset_and_goes_again(command: Command, tmp_path: Path) -> None:
    rows = "".join(f"{tier},{i},{i + 1},{i % 2}\n" for tier in ("train", "validation", "test") for i in range(5))
    (tmp_path / "points.csv").write_text("tier,x,y,targets\n" + rows)
    source = str(tmp_path / "points.csv")
    assert command("data", "import", "points", source, "--array", "inputs=x:y", "--version", "a")[0] == 0
    code, out, _ = command("data", "list", "--json")
    (row,) = json.loads(out)
    assert (row["dataset"], row["state"], row["count"]) == ("mongo:points@a", "complete", 15)
    assert row["fields"] == {"inputs": "<i8 of shape [2]", "targets": "int64", "tier": "str"}
    assert "mongo:points@a" in command("data", "list")[1]
    with connect():
        (key,) = DatasetConfig().insert_tuples([{**MONGO, "dataset_file_name": "mongo:points@a"}])
        assert (DatasetConfig() & key).fetch1("input_shape") == [2]
    code, _, err = command("data", "remove", "points@a")
    assert code == 1
    assert f"named by the dataset configurations {key['dataset_config_md5_hash'][:8]}" in err
    with connect():
        (DatasetConfig() & key).delete(prompt=False)
    assert command("data", "remove", "points@a")[1] == "mongo:points@a removed with 15 examples\n"
    code, _, err = command("data", "remove", "points@a")
    assert (code, "no dataset 'points@a' was imported" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "gone.npz"), "there is no file gone.npz"),
        (("x", "os:getcwd"), "os:getcwd is outside the allowed packages"),
        (("x", "a.csv", "--array", "y"), "--array takes FIELD=FIRST:LAST"),
        (("x", "a:b", "--params", "{"), "--params is no JSON"),
        (("x", "a:b", "--params", "[]"), "--params takes a JSON object"),
    ],
)
def test_what_is_wrong_is_one_sentence(command: Command, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = command("data", "import", *arguments)
    assert code != 0
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_without_mongodb_this_is_said(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINLOOM_STORE", "folder")
    monkeypatch.setenv("TRAINLOOM_STORE_DIR", str(tmp_path / "store"))
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    code, _, err = command("data", "import", "x", str(tmp_path / "a.npz"))
    assert code == 1
    assert "the setting store is folder; set it to auto or gridfs" in err
    with connect(), pytest.raises((InvalidRow, ValueError), match="the setting store is folder"):
        DatasetConfig().insert_tuple(MONGO)


@pytest.mark.slow
def test_ranks_and_their_loader_processes_read_from_mongodb(command: Command, tmp_path: Path) -> None:
    digits = build_digits(tmp_path / "datasets" / "digits.h5")
    assert command("data", "import", "digits", str(digits))[0] == 0
    streamed = {
        **MONGO,
        "dataset_class_params": {**MONGO["dataset_class_params"], "memory_budget": 0, "cache_bytes": 0},
    }
    with connect(num_workers=1):
        scores = []
        for row in (FILE, streamed):
            keys = ask(row, trainer_class_params={"devices": 2, "parameter_history": False})
            assert TrainingResult().populate(reserve_jobs=True) == {"success_count": 1, "error_list": []}
            scores.append((TrainingResult() & keys).fetch1("test_score", "training_epoch_loss_history"))
        assert scores[0] == scores[1]
