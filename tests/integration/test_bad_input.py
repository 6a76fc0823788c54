"""Bad input: one sentence that names the thing and what to do, and nothing inserted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.errors import ConfigurationError, DatabaseUnavailable
from pipeline.session import Session, connect
from schemas.errors import InvalidRow, NotConnected
from trainloom import DatasetConfig, ModelConfig, TrainingConfig, TrainingResult, TrainingTask

Row = dict[str, Any]
DATASET: Row = {
    "dataset_file_name": "data.h5",
    "dataset_class_module_name": "datasets_impl.hdf5",
    "dataset_class_name": "HDF5Dataset",
    "dataset_class_params": {"classes": 3},
}
MODEL: Row = {
    "model_class_module_name": "models_impl.simple_mlp",
    "model_class_name": "SimpleMLP",
    "model_class_params": {"hidden_size": 8},
}
TRAINING: Row = {
    "batch_size": 10,
    "epoch_limit": 1,
    "optimizer_class_module_name": "torch.optim",
    "optimizer_class_name": "Adam",
    "optimizer_class_params": {"lr": 0.01},
    "criterion_class_module_name": "torch.nn",
    "criterion_class_name": "CrossEntropyLoss",
}
NEEDS_WIDTH = """
import torch

class Net(torch.nn.Module):
    def __init__(self, input_shape, output_shape, width): ...
    def forward(self, x): return x
"""
TABLES = (DatasetConfig, ModelConfig, TrainingConfig, TrainingTask)


def write(path: Path, **changes: Any) -> None:
    """A data file of three tiers; `changes` replace a tier's (inputs, targets), None leaves it out."""
    generator = np.random.default_rng(0)
    tiers = {
        tier: (generator.normal(size=(count, 4)).astype("float32"), generator.integers(0, 3, count))
        for tier, count in (("train", 40), ("validation", 12), ("test", 12))
    }
    with h5py.File(path, "w") as file:
        for tier, content in {**tiers, **changes}.items():
            if content is not None:
                file[f"{tier}/inputs"], file[f"{tier}/targets"] = content


@pytest.fixture
def data(postgres_session: Session) -> Path:
    """The path of a good data file."""
    path = postgres_session.folders.dataset_dir / "data.h5"
    write(path)
    return path


@pytest.fixture
def nothing_inserted(postgres_session: Session) -> Iterator[None]:
    yield
    assert [len(table()) for table in TABLES] == [0, 0, 0, 0]


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the text of the module `our_code`, importable beside the test."""
    monkeypatch.syspath_prepend(tmp_path)

    def write_module(text: str) -> None:
        sys.modules.pop("our_code", None)
        (tmp_path / "our_code.py").write_text(text)

    return write_module


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_clas_name": "x"}, "there is no column 'model_clas_name'; did you mean model_class_name?"),
        ({"model_class_name": None}, "model_class_name must be text, not NoneType"),
        ({"model_class_name": "nn.Linear"}, "the name of a model class must be a plain name"),
        (
            {"model_class_name": "SimpleMPL"},
            "the module models_impl.simple_mlp has no model class SimpleMPL; it has SimpleMLP",
        ),
        ({"model_class_module_name": "models_impl.nothing"}, "there is no module models_impl.nothing"),
        ({"model_class_module_name": "os", "model_class_name": "system"}, "is outside the allowed packages"),
        ({"model_class_module_name": "__main__"}, "move it into a module beside it"),
        ({"model_class_module_name": "os; import sys"}, "must be a dotted name"),
        ({"model_class_module_name": "torch.nn", "model_class_name": "Linear"}, "cannot be a model"),
        (
            {"model_class_module_name": "models_impl.simple_mlp", "model_class_name": "nn"},
            "is a module, not a model class",
        ),
        ({"model_class_module_name": "torch.optim", "model_class_name": "Adam"}, "is no model class"),
        ({"model_class_params": {"hiden_size": 3}}, r"unknown parameter 'hiden_size'.*did you mean hidden_size\?"),
        ({"model_class_params": {"hidden_size": float("nan")}}, r"model_class_params\.hidden_size is nan"),
        ({"model_class_params": {"hidden_size": {1, 2}}}, r"model_class_params\.hidden_size is a builtins\.set"),
        ({"model_class_params": "hidden_size=3"}, "must be a dict of parameters, not str"),
    ],
)
@pytest.mark.feature("S2", "S8")
def test_a_wrong_model_row(nothing_inserted: None, changes: Row, message: str) -> None:
    with pytest.raises(InvalidRow, match=message) as error:
        ModelConfig().insert_tuples([MODEL, {**MODEL, **changes}])
    assert str(error.value).startswith("ModelConfig row 1: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", sorted({*MODEL} - {"model_class_params"}))
def test_a_missing_column_of_a_model(nothing_inserted: None, column: str) -> None:
    with pytest.raises(InvalidRow, match=f"ModelConfig row 0: the column {column} is missing"):
        ModelConfig().insert_tuples({name: value for name, value in MODEL.items() if name != column})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"epoch_limit": True}, "epoch_limit must be a whole number"),
        ({"epoch_limit": 2**31}, "epoch_limit must be a whole number"),
        ({"optimizer_class_name": "Adamm"}, "has no optimizer class Adamm"),
        ({"optimizer_class_module_name": "torch.nn", "optimizer_class_name": "Linear"}, "is no optimizer class"),
        ({"optimizer_class_params": {"learning_rate": 0.1}}, "unknown parameter 'learning_rate'"),
        ({"criterion_class_params": {"redution": "sum"}}, "did you mean reduction"),
        ({"trainer_class_params": {"metrics": ["accurracy"]}}, "accurracy"),
        (
            {"trainer_class_module_name": "models_impl.simple_mlp", "trainer_class_name": "SimpleMLP"},
            "is no trainer class",
        ),
    ],
)
@pytest.mark.feature("S3")
def test_a_wrong_training_row(nothing_inserted: None, changes: Row, message: str) -> None:
    with pytest.raises(InvalidRow, match=message) as error:
        TrainingConfig().insert_tuples([{**TRAINING, **changes}])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path: path.unlink(),
            "the data file .*data.h5 does not exist; correct dataset_file_name or dataset_dir",
        ),
        (lambda path: path.write_bytes(b"not hdf5" * 100), "cannot open the tier train of .*data.h5"),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "cannot open the tier train of .*data.h5"),
        (lambda path: write(path, validation=None), "cannot open the tier validation"),
        (
            lambda path: write(path, test=(np.zeros((0, 4), "float32"), np.zeros(0, int))),
            "the tier test .*empty|tier test.*no example",
        ),
        (
            lambda path: write(path, test=(np.zeros((5, 7), "float32"), np.zeros(5, int))),
            "all tiers must have the same shapes",
        ),
        (lambda path: write(path, train=(np.zeros((5, 4), "float32"), np.zeros(6, int))), "cannot open the tier train"),
        (
            lambda path: write(path, train=(np.zeros((5, 4), "float32"), np.full(5, 9))),
            "cannot open the tier train|label",
        ),
    ],
)
@pytest.mark.feature("S1", "S7")
def test_a_wrong_data_file(data: Path, nothing_inserted: None, change: Callable[[Path], Any], message: str) -> None:
    change(data)
    with pytest.raises(InvalidRow, match=message) as error:
        DatasetConfig().insert_tuples([DATASET])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_file_name": "../data.h5"}, "must lie below dataset_dir"),
        ({"dataset_file_name": "x" * 300}, "dataset_file_name has 300 characters"),
        ({"train_sampler_class_params": {"a": 1}}, "is given without train_sampler_class_name"),
        ({"train_sampler_module_name": "torch.utils.data", "train_sampler_class_name": "Dataset"}, "no sampler class"),
        ({"train_sampler_module_name": "datasets_impl.samplers", "train_sampler_class_name": "SubsetSampler",
          "train_sampler_class_params": {"indices": [99999]}}, "SubsetSampler cannot be built"),
    ],
)  # fmt: skip
def test_a_wrong_dataset_row(data: Path, nothing_inserted: None, changes: Row, message: str) -> None:
    with pytest.raises(InvalidRow, match=message):
        DatasetConfig().insert_tuples([{**DATASET, **changes}])


def test_a_class_that_comes_from_elsewhere_is_outside_the_allow_list(
    open_session: Callable[..., Session], own_module: Callable[[str], None]
) -> None:
    open_session(allowed_packages=("our_code",))
    own_module("from subprocess import Popen")
    with pytest.raises(
        InvalidRow, match="our_code.Popen, which comes from subprocess, is outside the allowed packages"
    ):
        ModelConfig().insert_tuples({"model_class_module_name": "our_code", "model_class_name": "Popen"})


def test_a_module_that_fails_to_import_says_why(
    open_session: Callable[..., Session], own_module: Callable[[str], None]
) -> None:
    open_session(allowed_packages=("our_code",))
    row = {"model_class_module_name": "our_code", "model_class_name": "Net"}
    own_module("import no_such_library")
    with pytest.raises(InvalidRow, match="importing our_code fails because no_such_library is not installed"):
        ModelConfig().insert_tuples(row)
    own_module("1 / 0")
    with pytest.raises(InvalidRow, match="importing our_code fails: ZeroDivisionError"):
        ModelConfig().insert_tuples(row)


@pytest.fixture
def keys(data: Path) -> Row:
    """The keys of one good configuration of each kind."""
    return {
        **DatasetConfig().insert_tuples(DATASET)[0],
        **ModelConfig().insert_tuples(MODEL)[0],
        **TrainingConfig().insert_tuples(TRAINING)[0],
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_config_md5_hash": "0" * 32}, "there is no ModelConfig '0{32}'; insert it first"),
        ({"model_config_md5_hash": None}, "model_config_md5_hash must be text"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": "1"}, "seed must be a whole number"),
        ({"priority": 1000}, "priority must be a whole number from 0 to 127"),
        ({"code_version": "x" * 65}, "code_version must be text of at most 64"),
        ({"sed": 1}, r"there is no column 'sed'; did you mean seed\?"),
    ],
)
@pytest.mark.feature("S4")
def test_a_wrong_task(keys: Row, changes: Row, message: str) -> None:
    with pytest.raises(InvalidRow, match=message):
        TrainingTask().insert_tuples([keys, {**keys, **changes}])
    assert len(TrainingTask()) == 0


def test_a_task_without_a_configuration(keys: Row) -> None:
    del keys["training_config_md5_hash"]
    with pytest.raises(InvalidRow, match="the column training_config_md5_hash is missing"):
        TrainingTask().insert_tuples(keys)


def test_a_training_tier_smaller_than_one_batch(keys: Row) -> None:
    large = TrainingConfig().insert_tuples({**TRAINING, "batch_size": 41})
    with pytest.raises(InvalidRow, match="draws 40 examples per epoch, fewer than one batch of 41"):
        TrainingTask().insert_tuples({**keys, **large[0]})


def test_a_parameter_that_neither_model_nor_dataset_gives(
    data: Path, open_session: Callable[..., Session], own_module: Callable[[str], None]
) -> None:
    own_module(NEEDS_WIDTH)
    open_session().close()
    open_session(allowed_packages=("our_code",))
    keys = {
        **DatasetConfig().insert_tuples(DATASET)[0],
        **ModelConfig().insert_tuples({"model_class_module_name": "our_code", "model_class_name": "Net"})[0],
        **TrainingConfig().insert_tuples(TRAINING)[0],
    }
    with pytest.raises(
        InvalidRow, match=r"our_code\.Net requires width, which neither model_class_params nor the dataset gives"
    ):
        TrainingTask().insert_tuples(keys)


def test_rows_that_are_no_rows(nothing_inserted: None) -> None:
    with pytest.raises(InvalidRow, match="not as str"):
        ModelConfig().insert_tuples("SimpleMLP")
    with pytest.raises(InvalidRow, match="row 0 is a int"):
        ModelConfig().insert_tuples([3])


def test_a_dataframe_is_rows(postgres_session: Session) -> None:
    import pandas

    assert len(ModelConfig().insert_tuples(pandas.DataFrame([MODEL])).new) == 1


def test_without_a_session_a_table_says_how_to_open_one() -> None:
    for use in (
        lambda: len(ModelConfig()),
        lambda: ModelConfig().insert_tuples(MODEL),
        lambda: TrainingResult().populate(reserve_jobs=True),
        lambda: TrainingTask & "seed = 1",
    ):
        with pytest.raises(NotConnected, match=r"call `from trainloom import connect; session = connect\(\)` first"):
            use()


def test_a_wrong_password_and_a_server_that_is_away(
    project_environment: Row, mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = mariadb_url.rpartition(":")[2]
    monkeypatch.setenv("TRAINLOOM_DATABASE_URL", f"mysql://nobody:a-secret@127.0.0.1:{port}")
    with pytest.raises(ConfigurationError, match="refuses the connection") as refused:
        connect()
    assert "a-secret" not in str(refused.value)
    monkeypatch.setenv("TRAINLOOM_DATABASE_URL", "postgresql://someone:a-secret@127.0.0.1:1/nowhere")
    with pytest.raises(
        DatabaseUnavailable, match="no database answers at postgresql://someone@127.0.0.1:1/nowhere"
    ) as away:
        connect()
    assert "a-secret" not in str(away.value)
