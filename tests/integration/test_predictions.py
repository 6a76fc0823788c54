"""Predictions: a trained model applied to data, as a task with a row."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline import dataset_store, prediction_queue, prediction_states, task_queue
from pipeline.claim import Worker
from pipeline.collector import Collector
from pipeline.job_table import enqueue, job_table
from pipeline.node_cache import DataFileChanged
from pipeline.prediction_trace import render, trace
from pipeline.queue import Queue
from pipeline.resolver import UnresolvedClass
from pipeline.running import RunningAttempt
from pipeline.session import Session
from schemas.attempt import Attempt
from schemas.errors import DamagedRow, InvalidRow
from tests.integration.digits_tasks import insert_tasks, train, training
from tests.integration.held_worker import HeldWorker, awaited
from tests.integration.test_bad_input import DATASET, MODEL, TRAINING, write
from trainloom import (
    DatasetConfig,
    ModelConfig,
    Prediction,
    PredictionTask,
    StoredDataset,
    TrainingConfig,
    TrainingResult,
    TrainingTask,
)

Key = dict[str, str]
SEVERAL = """
import torch

class Both(torch.nn.Module):
    def __init__(self, input_shape, output_shape):
        super().__init__()
        self.left = torch.nn.Linear(input_shape["left"][0], 2)
        self.right = torch.nn.Linear(input_shape["right"][0], 3)

    def forward(self, x):
        return {"first": self.left(x["left"]), "second": self.right(x["right"])}
"""
WIDE = """
import torch

class Wide(torch.nn.Module):
    def __init__(self, input_shape, output_shape):
        super().__init__()
        self.layer = torch.nn.Linear(input_shape[0], output_shape[0])

    def forward(self, x):
        output = self.layer(x)
        return output if self.training or len(x) < 250 else output.repeat(1, 3000)
"""


@pytest.fixture
def task(postgres_session: Session) -> Key:
    """The key of a small task that is trained."""
    return small_task(postgres_session)


def small_task(session: Session) -> Key:
    key = untrained_task(session)
    train()
    return key


def untrained_task(session: Session) -> Key:
    write(session.folders.dataset_dir / "data.h5")
    keys = (DatasetConfig().insert_tuples(DATASET), ModelConfig().insert_tuples(MODEL))
    (key,) = TrainingTask().insert_grid(*keys, TrainingConfig().insert_tuples(TRAINING))
    return dict(key)


def dataset() -> Key:
    (key,) = DatasetConfig().proj().to_dicts()
    return dict(key)


def insert(task: Key, **columns: Any) -> Key:
    (key,) = PredictionTask().insert_tuples({**task, **(columns or dataset())})
    return dict(key)


def predict(*restrictions: Any) -> None:
    done = Prediction().populate(*restrictions, reserve_jobs=True)
    assert done["error_list"] == []


def save(session: Session, content: Any, name: str = "more", version: str = "") -> Key:
    return dataset_store.save(session.store, content, name, version=version, tags={})


def states() -> dict[str, str]:
    return {row["task"]: str(row["state"]) for row in prediction_states.rows()}


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes the module `predict_code`, which rows may name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TRAINLOOM_ALLOWED_PACKAGES", "predict_code")

    def write_module(text: str) -> None:
        (tmp_path / "predict_code.py").write_text(text)

    yield write_module
    sys.modules.pop("predict_code", None)


@pytest.mark.feature("N8")
def test_a_prediction_waits_for_its_training_and_scores_as_that_did(session: Session) -> None:
    (key,) = insert_tasks(session, training())
    row = {**key, **dataset()}
    keys = PredictionTask().insert_tuples([row, {**row, "tier": "train"}])
    assert keys.new == keys and len(PredictionTask()) == 2
    assert PredictionTask().insert_tuples([{**row, "priority": 1, "batch_size": 3}]).new == []
    assert Prediction().populate(reserve_jobs=True)["success_count"] == 0
    assert states() == {one["prediction_task_md5_hash"]: "waiting" for one in keys}
    train()
    predict()
    assert {*states().values()} == {"finished"}
    result, found = TrainingResult().fetch1(), (Prediction() & keys[0]).fetch1()
    assert found["prediction_score"] == result["test_score"]
    metrics = {one["metric_name"]: one["metric_value"] for one in (Prediction.Metric() & keys[0]).to_dicts()}
    trained = {one["metric_name"]: one["metric_value"] for one in TrainingResult.Metric().to_dicts()}
    assert metrics == trained
    arrays = Prediction().load(keys[0])
    assert arrays["outputs"].shape == (found["example_count"], *found["prediction_shape"])
    assert (arrays["outputs"].argmax(1) == arrays["targets"]).mean() == metrics["accuracy"]
    with h5py.File(session.folders.dataset_dir / "digits.h5") as file:  # every example, in the order of the data
        np.testing.assert_array_equal(Prediction().load(keys[1])["targets"], file["train/targets"][()])
    evaluated = TrainingResult().get_test_set_outputs_targets_and_losses(key)
    np.testing.assert_array_equal(arrays["outputs"], evaluated["outputs"])
    assert found["prediction_sha256"] in {
        stored.sha256 for stored in session.store.list() if stored.kind == "prediction"
    }
    Collector(session).collect(timedelta(0), delete=True)
    Prediction().load(keys[0])
    TrainingResult().delete(prompt=False)
    assert len(Prediction()) == 0 and len(PredictionTask()) == 2


def test_a_prediction_is_made_anew_when_its_training_is(session: Session) -> None:
    task = small_task(session)
    key = insert(task)
    predict()
    assert task_queue.predictions_of([task["training_task_md5_hash"]]) == 1
    task_queue.retrain([task["training_task_md5_hash"]])
    assert states() == {key["prediction_task_md5_hash"]: "waiting"}
    train()
    predict()
    assert key in Prediction()
    insert(task, **save(session, np.zeros((5, 4))))
    predict()
    TrainingTask().delete(prompt=False)
    assert len(PredictionTask()) == len(Prediction()) == len(Prediction.Metric()) == 0
    assert len(DatasetConfig()) == len(StoredDataset()) == 1


def test_predictions_are_cancelled_retried_and_ordered_like_trainings(session: Session) -> None:
    task = small_task(session)
    first, second = insert(task), insert(task, **dataset(), tier="validation")
    names = [key["prediction_task_md5_hash"] for key in (first, second)]
    task_queue.prioritize(names[1:], 1)
    task_queue.cancel(names[:1])
    assert states() == dict(zip(names, ("cancelled", "pending"), strict=True))
    predict()
    assert second in Prediction() and first not in Prediction()
    task_queue.retry(names[:1])
    predict()
    assert first in Prediction()
    with pytest.raises(task_queue.TaskInUse, match="has it predicted again"):
        task_queue.retry(names)
    task_queue.retrain(names[:1])
    assert first not in Prediction() and second in Prediction()


def test_who_makes_a_prediction_is_told(task: Key) -> None:
    key = insert(task)["prediction_task_md5_hash"]
    assert prediction_states.live_workers() == []
    enqueue(Prediction())
    assert Queue(Prediction(), Worker("a GPU", name="ours")).claim() is not None
    (maker,) = prediction_states.live_workers()
    assert (maker["task"], maker["data"], maker["tier"], maker["worker"]) == (key, "data.h5", "test", "ours")


@pytest.mark.timeout(60)
def test_nobody_waits_for_a_prediction_whose_training_is_not_tried_any_more(postgres_session: Session) -> None:
    training = untrained_task(postgres_session)
    key = insert(training)
    (task,) = training.values()
    task_queue.cancel([task])
    with pytest.raises(
        prediction_queue.NotPredicted, match=f"waits for task {task[:8]}, .* cancelled; `trainloom task"
    ):
        prediction_queue.wait(key, poll_s=0.01)


def test_every_combination_of_trainings_datasets_and_tiers_is_inserted_once(task: Key) -> None:
    keys = PredictionTask().insert_grid(TrainingResult, tiers=("validation", "test"))
    assert len(keys) == len(keys.new) == len(PredictionTask()) == 2
    assert PredictionTask().insert_grid([task], [dataset()]).new == []


def test_a_stored_dataset_is_predicted(task: Key, postgres_session: Session) -> None:
    with h5py.File(postgres_session.folders.dataset_dir / "data.h5") as file:
        inputs, targets = file["test/inputs"][()], file["test/targets"][()]
    config = insert(task)
    bare = insert(task, **save(postgres_session, inputs.astype("float64")))
    both = insert(task, **save(postgres_session, {"inputs": inputs, "targets": targets}), batch_size=5)
    shutil.rmtree(postgres_session.folders.dataset_cache_dir)
    predict()
    outputs = Prediction().load(config)["outputs"]
    for key, names in ((bare, {"outputs"}), (both, {"outputs", "targets"})):
        found = Prediction().load(key)
        assert found.keys() == names
        np.testing.assert_allclose(found["outputs"], outputs, rtol=1e-5)
    assert (Prediction() & bare).fetch1("prediction_score") is None
    assert len(Prediction.Metric() & bare) == 0
    score = (Prediction() & config).fetch1("prediction_score")
    assert (Prediction() & both).fetch1("prediction_score") == pytest.approx(score, rel=1e-5)
    with pytest.raises(dataset_store.DatasetInUse, match="prediction_task"):
        dataset_store.remove((StoredDataset() & "stored_dataset_name = 'more'").to_dicts())


@pytest.mark.feature("S21")
def test_several_inputs_and_targets_keep_their_names(
    own_code: Callable[[str], None], open_session: Callable[..., Session], tmp_path: Path
) -> None:
    own_code(SEVERAL)
    session = open_session()
    generator = np.random.default_rng(0)
    with h5py.File(session.folders.dataset_dir / "several.h5", "w") as file:
        for tier in ("train", "validation", "test"):
            for name, width in (("a", 3), ("b", 4), ("y", 2), ("z", 3)):
                file[f"{tier}/{name}"] = generator.normal(size=(20, width)).astype("float32")
    params = {"inputs": {"left": "a", "right": "b"}, "targets": {"first": "y", "second": "z"}}
    configs = DatasetConfig().insert_tuples(
        {**DATASET, "dataset_file_name": "several.h5", "dataset_class_params": params}
    )
    models = ModelConfig().insert_tuples({"model_class_module_name": "predict_code", "model_class_name": "Both"})
    trainings = TrainingConfig().insert_tuples({**TRAINING, "criterion_class_name": "MSELoss"})
    (task,) = TrainingTask().insert_grid(configs, models, trainings)
    train()
    key = insert(dict(task))
    predict()
    arrays = Prediction().load(key)
    assert {name: array.shape for name, array in arrays["outputs"].items()} == {"first": (20, 2), "second": (20, 3)}
    with h5py.File(session.folders.dataset_dir / "several.h5") as file:
        np.testing.assert_array_equal(arrays["targets"]["second"], file["test/z"][()])
    found = Prediction().fetch1()
    assert found["prediction_shape"] == {"first": [2], "second": [3]}
    assert found["prediction_score"] == TrainingResult().fetch1("test_score")
    Prediction().save(key, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as saved:
        assert {*saved} == {"outputs.first", "outputs.second", "targets.first", "targets.second"}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"training_task_md5_hash": "0" * 32}, "there is no TrainingTask '0+'; insert it first"),
    ({"dataset_config_md5_hash": "0" * 32}, "there is no DatasetConfig '0+'"),
    ({"dataset_config_md5_hash": "", "stored_dataset_md5_hash": "0" * 32}, "there is no StoredDataset '0+'"),
    ({"dataset_config_md5_hash": ""}, "give the data as either dataset_config_md5_hash or stored_dataset_md5_hash"),
    ({"stored_dataset_md5_hash": "0" * 32}, "give the data as either"),
    ({"training_task_md5_hash": ""}, "the column training_task_md5_hash is missing"),
    ({"training_task_md5_hash": 3}, "training_task_md5_hash must be text, not 3"),
    ({"tier": "tests"}, "'tests' is not a tier; choose one of train, validation, test"),
    ({"teir": "test"}, "there is no column 'teir'; did you mean tier"),
    ({"priority": 128}, "priority must be a whole number from 0 to 127"),
    ({"batch_size": 0}, "batch_size must be a whole number from 1"),
]


def test_a_wrong_row_is_refused_and_nothing_inserted(task: Key) -> None:
    right = {**task, **dataset()}
    for columns, message in WRONG:
        with pytest.raises(InvalidRow, match=message) as error:
            PredictionTask().insert_tuples([right, {**right, **columns}])
        assert str(error.value).startswith("PredictionTask row 1: ") and "\n" not in str(error.value)
    assert len(PredictionTask()) == 0


def test_data_of_another_shape_are_refused_and_nothing_inserted(task: Key, postgres_session: Session) -> None:
    folder = postgres_session.folders.dataset_dir
    narrow = (np.zeros((12, 3), "float32"), np.zeros(12, "int64"))
    write(folder / "narrow.h5", train=narrow, validation=narrow, test=narrow)
    (narrower,) = DatasetConfig().insert_tuples({**DATASET, "dataset_file_name": "narrow.h5"})
    (more,) = DatasetConfig().insert_tuples({**DATASET, "dataset_class_params": {"classes": 4}})
    for data, message in (
        (narrower, r"examples of narrow.h5 have the shape \[3\], but the model .* takes \[4\]"),
        (more, r"outputs for data.h5 have the shape \[4\], but the model of task .* gives \[3\]"),
        (save(postgres_session, np.zeros((5, 2))), r"examples of more have the shape \[2\], but"),
        (save(postgres_session, {"inputs": np.zeros((5, 4)), "targets": np.zeros(4)}), "more cannot be predicted"),
        (save(postgres_session, np.array(["a"]), "text"), "text cannot be predicted: inputs has dtype"),
        (save(postgres_session, [], "nothing"), "nothing cannot be predicted: there is no array of inputs"),
    ):
        with pytest.raises(InvalidRow, match=message):
            insert(task, **data)
    assert len(PredictionTask()) == 0


def test_a_model_whose_class_is_gone_is_refused(
    own_code: Callable[[str], None], open_session: Callable[..., Session], tmp_path: Path
) -> None:
    own_code("from models_impl.simple_mlp import SimpleMLP\nclass Gone(SimpleMLP): pass")
    session = open_session(max_attempts=1)
    write(session.folders.dataset_dir / "data.h5")
    models = ModelConfig().insert_tuples({"model_class_module_name": "predict_code", "model_class_name": "Gone"})
    configs = DatasetConfig().insert_tuples(DATASET)
    (task,) = TrainingTask().insert_grid(configs, models, TrainingConfig().insert_tuples(TRAINING))
    train()
    insert(dict(task))
    session.close()
    (tmp_path / "predict_code.py").unlink()
    sys.modules.pop("predict_code")
    importlib.invalidate_caches()
    open_session(max_attempts=1)
    with pytest.raises(InvalidRow, match="predict_code"):
        insert(dict(task), **dataset(), tier="train")
    assert len(PredictionTask()) == 1
    with pytest.raises(UnresolvedClass, match="predict_code"):
        Prediction().populate(reserve_jobs=True)
    assert Attempt().to_dicts(order_by="attempt_start")[-1]["attempt_blame"] == "worker"
    assert len(Prediction()) == 0


def test_a_data_file_that_changed_under_its_key_is_an_error(task: Key, postgres_session: Session) -> None:
    key = insert(task)
    write(postgres_session.folders.dataset_dir / "data.h5", test=(np.ones((12, 4), "float32"), np.zeros(12, "int64")))
    with pytest.raises(DataFileChanged, match=r"data\.h5"):
        Prediction().populate(reserve_jobs=True)
    assert len(Prediction()) == 0
    assert states() == {key["prediction_task_md5_hash"]: "retry"}


def test_a_row_that_was_changed_is_not_predicted(task: Key) -> None:
    key = insert(task)
    PredictionTask().update1({**key, "prediction_tier": "train"})
    with pytest.raises(DamagedRow, match="does not agree with its key"):
        Prediction().populate()
    assert len(Prediction()) == 0


def test_the_trace_of_a_prediction_ends_at_data_and_model(task: Key, postgres_session: Session) -> None:
    key = insert(task)["prediction_task_md5_hash"]
    stored = insert(task, **save(postgres_session, np.zeros((5, 4)), "named", "2"))["prediction_task_md5_hash"]
    assert trace(key)["prediction"]["result"] is None
    assert "not predicted yet" in render(trace(key))
    predict()
    found = trace(key, code=True)
    prediction, trained = found["prediction"], found["training"]
    assert prediction["data"]["sha256"] == trained["dataset"]["sha256"]
    assert (prediction["data"]["in_store"], prediction["result"]["in_store"]) == (True, True)
    assert prediction["provenance"]["code"]["model"]["module"] == "models_impl.simple_mlp"
    assert "class SimpleMLP" in "".join(prediction["provenance"]["code_texts"].values())
    assert trained["task"]["key"] == task["training_task_md5_hash"]
    text = render(found)
    address = f"trainloom://{(Prediction() & {'prediction_task_md5_hash': key}).fetch1('prediction_sha256')}"
    for part in (f"prediction {key} of the tier test", address, trained["result"]["model_save_path"], "data.h5"):
        assert part in text
    assert "stored dataset named 2: sha256" in render(trace(stored))


def objects(session: Session) -> list[str]:
    return [stored.sha256 for stored in session.store.list() if stored.kind == "prediction"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stage", ["outputs", "chunks"])
def test_a_killed_worker_leaves_nothing_visible_and_another_predicts(
    impatience: None, open_session: Callable[..., Session], hold: Callable[..., HeldWorker], stage: str
) -> None:
    session = open_session()
    task = small_task(session)
    key = insert(task, **dataset(), batch_size=5)
    worker = hold(stage, table="Prediction")
    assert states() == {key["prediction_task_md5_hash"]: "running"}
    worker.kill()
    assert objects(session) == [] and len(Prediction()) == 0
    left = {path.name for path in session.folders.model_save_dir.iterdir() if path.suffix != ".weights"}
    assert left <= {"events"}

    def done() -> bool:
        Prediction().populate(reserve_jobs=True)
        return key in Prediction()

    awaited(done, lambda: str(job_table(Prediction()).to_dicts()))
    ended = Attempt() & {"attempt_key": key["prediction_task_md5_hash"]}
    assert [row["attempt_outcome"] for row in ended.to_dicts(order_by="attempt_start")] == ["lost", "finished"]
    assert objects(session) == [(Prediction() & key).fetch1("prediction_sha256")]
    assert len(Prediction().load(key)["outputs"]) == 12
    Collector(session).collect(timedelta(0), delete=True)
    assert [left.size for left in session.store.unfinished(session.store.now())] == []


@pytest.mark.timeout(120)
def test_a_stopped_worker_gives_its_prediction_back(
    impatience: None, open_session: Callable[..., Session], hold: Callable[..., HeldWorker]
) -> None:
    session = open_session()
    key = insert(small_task(session), **dataset(), batch_size=5)
    worker = hold("outputs", table="Prediction")
    worker.send(15)
    worker.release()
    assert worker.end() == 143
    assert Attempt().to_dicts(order_by="attempt_start")[-1]["attempt_outcome"] == "preempted"
    assert objects(session) == [] and states() == {key["prediction_task_md5_hash"]: "pending"}


def test_the_upload_of_a_prediction_shows_life(
    task: Key, postgres_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs: list[RunningAttempt] = []
    store = type(postgres_session.store)
    put = store.put
    during: list[int] = []

    def watched(self: Any, content: Any, **named: Any) -> Any:
        before = len(signs)
        stored = put(self, content, **named)
        during.append(len(signs) - before)
        return stored

    insert(task)
    monkeypatch.setattr(RunningAttempt, "show_life", lambda self: signs.append(self))
    monkeypatch.setattr(store, "put", watched)
    predict()
    assert len(during) == 1 and during[0] > 0


@pytest.mark.slow
def test_a_large_prediction_takes_little_memory(
    own_code: Callable[[str], None], open_session: Callable[..., Session]
) -> None:
    own_code(WIDE)
    session = open_session()
    generator = np.random.default_rng(0)
    small, large = ((generator.normal(size=(count, 4)).astype("float32"), np.zeros(count, int)) for count in (40, 4000))
    write(session.folders.dataset_dir / "data.h5", validation=small, test=small)
    models = ModelConfig().insert_tuples({"model_class_module_name": "predict_code", "model_class_name": "Wide"})
    configs = DatasetConfig().insert_tuples(DATASET)
    (task,) = TrainingTask().insert_grid(configs, models, TrainingConfig().insert_tuples(TRAINING))
    train()
    key = insert(dict(task), **save(session, large[0]), batch_size=250)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew; see proc(5)
    before = resident("VmRSS")
    predict()
    size = (Prediction() & key).fetch1("prediction_size")
    assert size > 130 << 20
    assert resident("VmHWM") - before < 80 << 20  # a batch has 9 MB


def resident(name: str) -> int:
    """A number of bytes in memory, by its name in /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) << 10
