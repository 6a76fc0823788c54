"""What populate does: which tasks, in which order, with which errors, and what a result holds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datajoint as dj
import h5py
import pytest
from safetensors.torch import load as load_safetensors

from pipeline.errors import ConfigurationError, PipelineError
from pipeline.session import Session
from pipeline.store.interface import parse_address
from tests.integration.test_bad_input import DATASET, MODEL, TRAINING, write
from trainloom import DatasetConfig, ModelConfig, TrainingConfig, TrainingResult, TrainingTask

ROOT = Path(__file__).parents[2]
WORKER = """
import json
from trainloom import connect, TrainingResult
connect()
print(json.dumps(TrainingResult().populate(reserve_jobs=True, order="random")))
"""
OWN_TRAINER = """
from trainers.nn_trainer import NNTrainer

class Watched(NNTrainer):
    def __init__(self, *, mark, fails=False, waits=False, **given):
        super().__init__(**given)
        self.mark, self.fails, self.waits = mark, fails, waits

    def train(self):
        with open(self.mark, "a") as file:
            file.write("x")
        if self.fails:
            raise RuntimeError("no luck \\0 \\ud800")
        if self.waits:
            import threading
            threading.Event().wait()
        super().train()
"""


@pytest.fixture
def tasks(session: Session) -> list[dict[str, str]]:
    """Four small tasks."""
    return insert(session)


def insert(
    session: Session, training: dict[str, Any] = TRAINING, seeds: Any = range(4), **dataset: Any
) -> list[dict[str, str]]:
    if not (session.folders.dataset_dir / "data.h5").exists():
        write(session.folders.dataset_dir / "data.h5")
    return TrainingTask().insert_grid(
        DatasetConfig().insert_tuples({**DATASET, **dataset}),
        ModelConfig().insert_tuples(MODEL),
        TrainingConfig().insert_tuples(training),
        seeds=seeds,
    )


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Training rows of a trainer that marks each start in ``tmp_path/mark``."""
    (tmp_path / "our_trainer.py").write_text(OWN_TRAINER)
    sys.modules.pop("our_trainer", None)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TRAINLOOM_ALLOWED_PACKAGES", "our_trainer")
    monkeypatch.setenv("TRAINLOOM_CODE_DIR", str(tmp_path))

    def row(**params: Any) -> dict[str, Any]:
        return {
            **TRAINING,
            "trainer_class_module_name": "our_trainer",
            "trainer_class_name": "Watched",
            "trainer_class_params": {"mark": str(tmp_path / "mark"), **params},
        }

    return row


@pytest.mark.feature("S5", "S18")
def test_every_task_is_trained_once_and_its_result_is_whole(session: Session, tasks: list[dict[str, str]]) -> None:
    assert TrainingResult().populate(reserve_jobs=True) == {"success_count": 4, "error_list": []}
    assert len(TrainingResult().jobs) == 0
    result = (TrainingResult() & tasks[0]).fetch1()
    assert result["epochs"] == 1
    assert len(result["training_epoch_loss_history"]) == len(result["validation_epoch_loss_history"]) == 1
    history = result["model_class_params_history"]
    assert all(len(of["mean"]) == len(of["variance"]) == 1 for of in history.values())
    assert result["parameter_count"] == 4 * 8 + 8 + 8 * 3 + 3
    assert result["duration"] > 0
    metric = (TrainingResult.Metric() & tasks[0] & "metric_name = 'loss'").fetch1()
    assert metric["metric_value"] == result["test_score"]
    assert metric["metric_direction"] == "min"
    artifact = (TrainingResult.Artifact() & tasks[0]).fetch1()
    content = session.store.get_bytes(parse_address(result["model_save_path"]))
    assert artifact["artifact_sha256"] == parse_address(result["model_save_path"])
    assert artifact["artifact_size"] == len(content)
    assert artifact["artifact_kind"] == "safetensors"
    assert sum(tensor.numel() for tensor in load_safetensors(content).values()) == result["parameter_count"]


@pytest.mark.feature("N9")
def test_provenance_holds_code_packages_and_machine(session: Session, tasks: list[dict[str, str]]) -> None:
    TrainingResult().populate(tasks[0], reserve_jobs=True)
    row = (TrainingResult.Provenance() & tasks[0]).fetch1()
    assert set(row["code"]) == {"dataset", "model", "trainer", "optimizer", "criterion"}
    text = row["code_texts"][row["code"]["model"]["sha256"]]
    assert text == (ROOT / "models_impl" / "simple_mlp.py").read_text()
    assert row["packages"]["torch"].startswith("2.")
    assert row["numerics"]["threads"] == 1
    assert row["choices"]["optimizer_implementation"] in ("fused", "foreach", "default")
    assert row["git_dirty"] in ("yes", "no", "unknown")
    assert row["hardware"]["cores"] >= 1


def test_a_result_is_published_without_asking_for_columns_meanwhile(
    session: Session, tasks: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, within = session.connection, []
    execute = connection._execute_query

    def watched(cursor: Any, query: str, *rest: Any) -> None:
        if connection.in_transaction:
            within.append(query)
        execute(cursor, query, *rest)

    monkeypatch.setattr(connection, "_execute_query", watched)
    TrainingResult().populate(tasks[0], reserve_jobs=True)
    assert any("INSERT INTO" in query and "__usage" in query for query in within)
    assert [query for query in within if "information_schema" in query or "SHOW" in query] == []


def test_restrictions_limits_and_priorities_bind(session: Session, tasks: list[dict[str, str]]) -> None:
    assert TrainingResult().populate(tasks[:2], reserve_jobs=True, max_calls=1)["success_count"] == 1
    assert TrainingResult().populate("seed = 3", reserve_jobs=True)["success_count"] == 1
    assert len(TrainingResult() & tasks[3]) == 1
    urgent = insert(session, seeds=[9])[0]
    TrainingTask().update1({**urgent, "priority": 1})
    assert TrainingResult().populate(reserve_jobs=True, max_calls=1, order="random")["success_count"] == 1
    assert len(TrainingResult() & urgent) == 1
    assert TrainingResult().populate(reserve_jobs=True, priority=4)["success_count"] == 0
    assert TrainingResult().populate()["success_count"] == 2


def test_arguments_that_make_no_sense_are_refused(postgres_session: Session) -> None:
    with pytest.raises(ValueError, match="order is 'original' or 'random'"):
        TrainingResult().populate(order="fast")
    with pytest.raises(ValueError, match="trainloom worker --processes"):
        TrainingResult().populate(processes=2)
    with pytest.raises(ValueError, match="num_workers is the number of loader processes"):
        TrainingResult(num_workers=-1)


def test_an_error_is_kept_with_its_traceback_and_the_others_go_on(
    watched: Callable[..., dict[str, Any]], backend: str, open_session: Callable[..., Session]
) -> None:
    session = open_session(max_attempts=1)
    bad = insert(session, watched(fails=True), seeds=[0, 1])
    good = insert(session)
    done = TrainingResult().populate(reserve_jobs=True, suppress_errors=True)
    assert done["success_count"] == len(good)
    assert sorted(key["training_task_md5_hash"] for key, _ in done["error_list"]) == sorted(
        key["training_task_md5_hash"] for key in bad
    )
    assert all("RuntimeError: no luck" in message for _, message in done["error_list"])
    job = (TrainingResult().jobs.errors & bad[0]).fetch1()
    assert job["error_message"] == "RuntimeError: no luck \\0 \\ud800"
    assert "our_trainer.py" in job["error_stack"]
    with pytest.raises(RuntimeError, match="no luck"):
        TrainingResult().populate()
    errors = TrainingResult().populate(suppress_errors=True, return_exception_objects=True)["error_list"]
    assert isinstance(errors[0][1], RuntimeError)


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_an_interrupted_worker_gives_its_task_back(
    watched: Callable[..., dict[str, Any]], session: Session, tmp_path: Path, signal_number: int, code: int
) -> None:
    key = insert(session, watched(waits=True), seeds=[0])[0]
    worker = subprocess.Popen([sys.executable, "-c", WORKER], cwd=ROOT, stderr=subprocess.PIPE)
    while not (tmp_path / "mark").exists():
        assert worker.poll() is None, worker.stderr.read()
    worker.send_signal(signal_number)
    worker.communicate()
    assert worker.returncode == code
    assert (TrainingResult().jobs & key).fetch1("status") == "pending"


@pytest.mark.slow
def test_two_workers_share_the_tasks(watched: Callable[..., dict[str, Any]], session: Session, tmp_path: Path) -> None:
    insert(session, watched(), seeds=range(6))
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    counts = [json.loads(worker.communicate()[0])["success_count"] for worker in workers]
    assert sum(counts) == 6
    assert (tmp_path / "mark").read_text() == "x" * 6
    assert len(TrainingResult()) == 6


def test_a_deleted_task_is_not_trained(session: Session, tasks: list[dict[str, str]]) -> None:
    TrainingResult().populate(reserve_jobs=True, max_calls=1)
    waiting = (TrainingResult().jobs & "status = 'pending'").to_dicts()
    gone = {"training_task_md5_hash": waiting[0]["training_task_md5_hash"]}
    (TrainingTask() & gone).delete(prompt=False)
    assert TrainingResult().populate(reserve_jobs=True) == {"success_count": 2, "error_list": []}


@pytest.mark.feature("S9", "S18")
def test_the_same_row_gives_the_same_numbers_whatever_the_loader_processes(
    session: Session, tasks: list[dict[str, str]]
) -> None:
    found = []
    for num_workers in (0, 2):
        TrainingResult(num_workers=num_workers).populate(tasks[0], reserve_jobs=True)
        row = (TrainingResult() & tasks[0]).fetch1()
        del row["duration"], row["utc_insert_time"]
        found.append(row)
        (TrainingResult() & tasks[0]).delete(prompt=False)
    assert found[0] == found[1]


@pytest.mark.feature("S15", "S18", "S20")
def test_directories_may_be_given_to_the_table(session: Session, tmp_path: Path) -> None:
    write(tmp_path / "data.h5")
    directories = {name: str(tmp_path / name) for name in ("dataset_cache_dir", "model_save_dir")}
    task = TrainingTask().insert_grid(
        DatasetConfig(dataset_dir=str(tmp_path)).insert_tuples(DATASET),
        ModelConfig().insert_tuples(MODEL),
        TrainingConfig().insert_tuples(TRAINING),
    )[0]
    result = TrainingResult(dataset_dir=str(tmp_path), num_workers=1, **directories)
    assert result.populate(reserve_jobs=True)["success_count"] == 1
    assert len(list((tmp_path / "dataset_cache_dir").rglob("data.h5"))) == 1
    assert [path.suffix for path in (tmp_path / "model_save_dir").iterdir()] == [".weights"]
    (tmp_path / "model_save_dir").rename(tmp_path / "moved")
    evaluated = result.get_test_set_outputs_targets_and_losses(task)
    assert evaluated["loss"] == pytest.approx((TrainingResult() & task).fetch1("test_score"))
    with pytest.raises(ValueError, match="names no result"):
        result.get_trainer({"training_task_md5_hash": "0" * 32})


@pytest.mark.feature("S16")
def test_a_data_file_that_changed_under_its_key_is_an_error(session: Session, tasks: list[dict[str, str]]) -> None:
    with h5py.File(session.folders.dataset_dir / "data.h5", "a") as file:
        file["train/inputs"][0] = 99.0
    with pytest.raises(PipelineError, match=r"data\.h5"):
        TrainingResult().populate(reserve_jobs=True)
    assert len(TrainingResult()) == 0


@pytest.mark.feature("S16")
def test_a_node_without_the_data_file_gets_it_from_the_store(session: Session, tasks: list[dict[str, str]]) -> None:
    (session.folders.dataset_dir / "data.h5").unlink()
    assert TrainingResult().populate(reserve_jobs=True)["success_count"] == 4


@pytest.mark.feature("S17")
def test_histories_go_into_a_store_of_ones_own(
    backend: str, open_session: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"external_training_result": {"protocol": "file", "location": str(tmp_path / "external")}}
    monkeypatch.setitem(dj.config, "stores", own)
    with pytest.raises(ConfigurationError, match="external_training_result.*Inaccessible local directory"):
        open_session()
    (tmp_path / "external").mkdir()
    session = open_session()
    task = insert(session, seeds=[0])[0]
    TrainingResult().populate(reserve_jobs=True)
    assert len((TrainingResult() & task).fetch1("training_epoch_loss_history")) == 1
    assert any(path.is_file() for path in (tmp_path / "external").rglob("*"))


@pytest.mark.feature("S17")
def test_histories_are_objects_of_the_store(session: Session, tasks: list[dict[str, str]]) -> None:
    TrainingResult().populate(tasks[0], reserve_jobs=True)
    kinds = [stored.kind for stored in session.store.list()]
    assert kinds.count("blob") >= 4
    assert kinds.count("weights") == 1
    assert kinds.count("dataset") == 1


def test_a_result_whose_rows_changed_meanwhile_is_not_written(
    session: Session, tasks: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = TrainingResult.make_compute

    def change_and_compute(self: Any, key: Any, spec: Any) -> Any:
        TrainingTask().update1({**key, "seed": 77})
        return compute(self, key, spec)

    monkeypatch.setattr(TrainingResult, "make_compute", change_and_compute)
    with pytest.raises(PipelineError, match="changed while it was computed"):
        TrainingResult().populate(tasks[0], reserve_jobs=True)
    assert len(TrainingResult()) == 0


def test_a_task_that_is_given_another_priority_while_it_trains_is_written(
    session: Session, tasks: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = TrainingResult.make_compute

    def change_and_compute(self: Any, key: Any, spec: Any) -> Any:
        TrainingTask().update1({**key, "priority": 1})
        return compute(self, key, spec)

    monkeypatch.setattr(TrainingResult, "make_compute", change_and_compute)
    assert TrainingResult().populate(tasks[0], reserve_jobs=True)["success_count"] == 1


@pytest.mark.feature("S4")
def test_a_warm_start_waits_for_its_source_and_begins_with_its_weights(session: Session) -> None:
    cold = insert(session, seeds=[0])[0]
    configs = (TrainingTask() & cold).fetch1()
    row = {name: configs[name] for name in configs if name.endswith("_config_md5_hash")}
    frozen = {**TRAINING, "optimizer_class_params": {"lr": 0.0}}
    row.update(TrainingConfig().insert_tuples(frozen)[0])
    source = cold["training_task_md5_hash"]
    warm = TrainingTask().insert_tuples({**row, "warm_start": source})
    assert warm.new
    assert TrainingTask().insert_tuples({**row, "warm_start": source}) == warm
    assert TrainingTask().insert_tuples(row)[0] != warm[0]
    assert TrainingResult().populate(warm[0], reserve_jobs=True)["success_count"] == 0
    assert TrainingResult().populate(cold, reserve_jobs=True)["success_count"] == 1
    assert TrainingResult().populate(warm[0], reserve_jobs=True)["success_count"] == 1
    first, second = ((TrainingResult() & key).fetch1("test_score") for key in (cold, warm[0]))
    assert second == pytest.approx(first)
    with pytest.raises(ValueError, match="names the task '0{32}', which does not exist"):
        TrainingTask().insert_tuples({**row, "warm_start": "0" * 32})
