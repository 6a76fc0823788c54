"""The database tutorial of TensorLayer: a dataset, logs, models, and tasks that runners in other processes take."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest
import torch

from models_impl.simple_mlp import SimpleMLP
from pipeline.dataset_store import DatasetInUse, DatasetMissing
from pipeline.errors import SessionError
from pipeline.event_record import Selection
from pipeline.hub_session import mongo_url
from pipeline.model_search import NoModel
from pipeline.script_queue import ScriptTasksFailed, WaitedTooLong
from pipeline.tag_query import InvalidQuery
from schemas.attempt import Attempt
from schemas.errors import InvalidRow
from schemas.stored_dataset import StoredDataset
from schemas.stored_model import ModelInUse, StoredModel
from trainloom import ScriptResult, ScriptTask, TensorHub

SCRIPT = """
import torch

from models_impl.simple_mlp import SimpleMLP
from trainloom import TensorHub

with TensorHub() as db:
    X_train, y_train, X_val, y_val, X_test, y_test = db.find_dataset("mnist")
    torch.manual_seed(0)
    net = SimpleMLP([4], [2], hidden_size=n_units)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    inputs, targets = torch.from_numpy(X_train), torch.from_numpy(y_train)
    for step in range(20):
        loss = torch.nn.functional.cross_entropy(net(inputs)[0], targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        db.save_training_log(step=step, loss=loss.item(), task=script_task_md5_hash)
    found = net(torch.from_numpy(X_test))[0].argmax(1)
    test_accuracy = (found == torch.from_numpy(y_test)).double().mean().item()
    shapes = dict(input_shape=[4], output_shape=[2])
    db.save_model(
        net, name="mnist", test_accuracy=test_accuracy, n_units=n_units, params=dict(hidden_size=n_units), **shapes
    )
"""
RUNNER = """
import json, sys, time
from trainloom import TensorHub
db = TensorHub(**json.loads(sys.argv[1]))
while db.check_unfinished_task(task_name="mnist"):
    db.run_task(task_name="mnist", sort=[("time", -1)])
    time.sleep(0.2)
"""


@pytest.fixture
def server(server_home: Any, project_environment: dict[str, str]) -> dict[str, Any]:
    """The arguments of a TensorHub on the embedded MongoDB."""
    from pipeline.services import MongoServer

    MongoServer(server_home).ensure_running()
    name = project_environment["TRAINLOOM_PROJECT"]
    return {"ip": str(MongoServer(server_home).socket), "port": 27017, "dbname": name, "project_name": name}


@pytest.fixture
def db(server: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[TensorHub]:
    """A hub of a project of its own."""
    monkeypatch.setenv("TRAINLOOM_POLL_SECONDS", "0.2")
    monkeypatch.setenv("TRAINLOOM_MAX_ATTEMPTS", "1")
    with TensorHub(**server, username=None, password="password") as hub:
        yield hub


@pytest.mark.feature("T2", "T5", "T4", "T3")
def test_the_tutorial(db: TensorHub, server: dict[str, Any], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(120, 4)).astype(np.float32)
    targets = (inputs @ np.array([1, -1, 2, 0.5], np.float32) > 0).astype(np.int64)
    X_train, X_val, X_test = np.split(inputs, 3)
    y_train, y_val, y_test = np.split(targets, 3)
    db.save_dataset((X_train, y_train, X_val, y_val, X_test, y_test), "mnist", description="handwriting digit")

    (tmp_path / "task_script.py").write_text(SCRIPT)
    for n_units in (2, 16, 64):
        db.create_task(
            task_name="mnist",
            script=tmp_path / "task_script.py",
            hyper_parameters={"n_units": n_units, "lr": 0.5},
            saved_result_keys=["test_accuracy"],
            description=f"{n_units} units",
        )
    assert db.check_unfinished_task(task_name="mnist")

    runners = [subprocess.Popen([sys.executable, "-c", RUNNER, json.dumps(server)]) for _ in range(2)]
    while db.check_unfinished_task(task_name="mnist"):
        time.sleep(0.2)
    assert [runner.wait() for runner in runners] == [0, 0]

    results = (ScriptTask() * ScriptResult()).proj("hyper_parameters", "script_results").to_dicts()
    accuracies = {row["hyper_parameters"]["n_units"]: row["script_results"]["test_accuracy"] for row in results}
    assert set(accuracies) == {2, 16, 64}
    assert len(Attempt() & "attempt_outcome = 'finished'") == 3
    best = db.find_model(sort=[("test_accuracy", -1)])
    found = best(torch.from_numpy(X_test))[0].argmax(1).numpy()
    assert float((found == y_test).mean()) == max(accuracies.values()) > 0.8
    assert db.count_models(n_units=16) == 1
    logs = db.session.events
    for row in results:
        chosen = Selection(row["script_task_md5_hash"], "training")
        assert [event["step"] for event in logs.read(chosen)] == list(range(20))


@pytest.mark.feature("T2")
def test_datasets_are_found_by_name_version_and_tags(db: TensorHub) -> None:
    for version, source in (("1.0", "first"), ("1.1", "second")):
        db.save_dataset([np.full(2, float(version))], "mnist", version=version, source=source)
    db.save_dataset({"x": np.zeros(1)}, dataset_name="other")
    assert db.find_dataset("mnist")[0][0] == 1.1
    assert db.find_dataset("mnist", version="1.0")[0][0] == 1.0
    assert db.find_dataset("mnist", source="first")[0][0] == 1.0
    assert db.find_dataset("mnist", sort=[("version", 1)])[0][0] == 1.0
    assert [dataset[0][0] for dataset in db.find_all_datasets("mnist")] == [1.1, 1.0]
    with pytest.raises(DatasetMissing, match="no dataset 'mnist' of version '2'"):
        db.find_dataset("mnist", version="2")
    assert db.delete_dataset("mnist", version="1.0") == 1
    assert db.delete_dataset() == 2
    assert db.find_all_datasets("mnist") == []


@pytest.mark.feature("T3")
def test_models_are_found_by_tags_and_order(db: TensorHub, caplog: pytest.LogCaptureFixture) -> None:
    nets = [SimpleMLP([2], [1], hidden_size=3) for _ in range(3)]
    described = {"params": {"hidden_size": 3}, "input_shape": [2], "output_shape": [1]}
    for net, accuracy in zip(nets, (0.7, 0.9, 0.8), strict=True):
        db.save_model(net, accuracy=accuracy, loss=2.3, name="second_model", stage=f"s{accuracy}", **described)

    def found(**query: Any) -> int:
        model = db.find_model(**query)
        assert isinstance(model, SimpleMLP) and not model.training
        inputs = torch.ones(1, 2)
        return [torch.equal(net(inputs)[0], model(inputs)[0]) for net in nets].index(True)

    assert found(accuracy=0.8, loss=2.3) == 2
    assert found() == found(sort=[("time", -1)]) == 2
    assert found(sort=[("time", 1)]) == 0
    assert found(sort=[("accuracy", -1)]) == 1
    assert found(stage="s0.7") == 0
    assert found(sess=object()) == 2
    assert "given sess, which is ignored" in caplog.text
    with pytest.raises(NoModel, match="accuracy=0.1"):
        db.find_model(accuracy=0.1)
    with pytest.raises(InvalidQuery, match="sort holds"):
        db.find_model(sort=["time"])
    assert db.delete_model(stage="s0.7") == 1
    assert db.delete_model() == 2
    assert db.count_models() == 0


@pytest.mark.feature("T2", "T3")
def test_what_other_rows_use_is_not_deleted(backend: str, open_session: Callable[..., Any]) -> None:
    """And nothing beside it."""
    db = TensorHub(session=open_session())
    for version in "123":
        db.save_dataset([np.zeros(1)], "mnist", version=version)
        db.save_model({"weight": torch.zeros(1)}, name="net", version=version)
    schema = dj.Schema(db.session.settings.schema_name, connection=db.session.connection)

    class Figure(dj.Manual):
        definition = """
        -> StoredDataset
        -> StoredModel
        """

    schema(Figure, context={"StoredDataset": StoredDataset, "StoredModel": StoredModel})
    try:
        used = {"stored_dataset_version": "2", "stored_model_version": "2"}
        Figure().insert((StoredDataset() * StoredModel() & used).proj())
        with pytest.raises(DatasetInUse, match=r"the dataset mnist is still used by rows of .*figure; delete"):
            db.delete_dataset("mnist")
        with pytest.raises(
            ModelInUse, match=r"the model net \(\w{8}\) is still used by rows of .*figure; delete those"
        ):
            db.delete_model(name="net")
        assert len(db.find_all_datasets("mnist")) == db.count_models() == 3
        Figure().delete_quick()
        assert (db.delete_dataset("mnist"), db.delete_model(name="net")) == (3, 3)
    finally:
        Figure().drop_quick()


OWN_MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self, input_shape, output_shape, size, scale=2.0):
        super().__init__()
        self.input_shape, self.output_shape, self.size, self.scale = input_shape, output_shape, size, scale
        self.layer = torch.nn.Linear(input_shape[0], size)

    def forward(self, x):
        return self.layer(x) * self.scale
"""


@pytest.mark.feature("T3")
def test_constructor_arguments_are_read_from_the_module(
    server: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub_models.py").write_text(OWN_MODEL)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("TRAINLOOM_ALLOWED_PACKAGES", "hub_models")
    monkeypatch.setenv("TRAINLOOM_CODE_DIR", str(tmp_path))
    import hub_models  # type: ignore[import-not-found]

    net = hub_models.Net([3], [2], 2, scale=5.0)
    with TensorHub(**server) as db:
        db.save_model(net, name="own")
        again = db.find_model(name="own")
    assert (again.size, again.scale) == (2, 5.0)
    assert torch.equal(again(torch.ones(1, 3)), net(torch.ones(1, 3)))


@pytest.mark.feature("T3")
def test_a_model_of_an_unknown_class_comes_back_as_its_state(db: TensorHub, caplog: pytest.LogCaptureFixture) -> None:
    class Own(torch.nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(size, 1)

    net = Own(3)
    db.save_model(net, name="own")
    assert "state dict only" in caplog.text
    state = db.find_model(name="own")
    assert torch.equal(state["layer.weight"], net.layer.weight)


@pytest.mark.feature("T4")
def test_logs_are_saved_and_deleted_by_filter(db: TensorHub) -> None:
    db.save_training_log(accuracy=0.33)
    db.save_training_log(accuracy=0.44)
    db.save_validation_log(accuracy=0.33)
    db.save_testing_log(accuracy=0.33, task="a task")
    assert db.delete_training_log(accuracy=0.33) == 1
    assert [event["accuracy"] for event in db.session.events.read(Selection(kind="training"))] == [0.44]
    assert db.delete_training_log() == 1
    assert db.delete_validation_log() == 1
    assert db.delete_testing_log(task="another") == 0
    assert db.delete_testing_log() == 1


@pytest.mark.feature("T5")
def test_a_wait_ends_and_says_what_failed(db: TensorHub, caplog: pytest.LogCaptureFixture) -> None:
    db.create_task("broken", "raise ValueError('no such digit')\n", {"x": 1}, [])
    with pytest.raises(WaitedTooLong, match="1 script tasks are unfinished after 0 s"):
        db.check_unfinished_task("broken", wait=True, timeout=0)
    assert db.run_task("broken")
    assert not db.run_task("broken")
    with pytest.raises(ScriptTasksFailed, match="no such digit"):
        db.check_unfinished_task("broken", wait=True)
    with caplog.at_level(logging.WARNING):
        assert not db.check_unfinished_task("broken")
    assert "was set aside" in caplog.text


@pytest.mark.feature("T5")
def test_tasks_are_taken_in_the_order_asked_for(db: TensorHub) -> None:
    for number in (2, 3, 1):
        db.create_task("order", "seen = number\n", {"number": number}, ["seen"], owner="me" if number < 3 else "you")
    assert db.run_task("order", sort=[("number", -1)])
    assert ScriptResult().fetch1("script_results") == {"seen": 3}
    assert db.run_task("order", owner="me", sort=[("number", 1)])
    assert not db.check_unfinished_task("order", owner="you")
    assert db.check_unfinished_task("order", owner="me", wait=False)
    assert db.delete_tasks("order", owner="me") == 2
    assert not db.check_unfinished_task("order")
    assert db.delete_tasks() == 1
    assert len(ScriptTask()) == len(ScriptResult()) == 0


@pytest.mark.feature("T1")
def test_two_projects_never_see_each_other(server: dict[str, Any]) -> None:
    with TensorHub(**server) as first:
        first.save_dataset([np.zeros(1)], "mnist")
        first.save_model({"weight": torch.zeros(1)}, name="net")
        first.save_training_log(accuracy=0.5)
        first.create_task("task", "a = 1\n")
    other = f"{server['project_name']}x"
    with TensorHub(**{**server, "project_name": other}) as second:
        try:
            assert second.find_all_datasets("mnist") == []
            assert second.count_models() == 0
            assert second.delete_training_log() == 0
            assert not second.check_unfinished_task()
            assert not second.run_task()
        finally:
            second.session.connection.query(f'DROP SCHEMA "{other}" CASCADE')
    with TensorHub(**server) as first:
        assert len(first.find_all_datasets("mnist")) == first.count_models() == first.delete_training_log() == 1
        assert first.check_unfinished_task()


def test_a_script_that_is_not_there_is_said(db: TensorHub) -> None:
    with pytest.raises(InvalidRow, match="nowhere.py cannot be read"):
        db.create_task("n", "nowhere.py")


def test_a_hub_uses_the_session_that_is_open(
    open_session: Callable[..., Any], project_environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    session = open_session()
    with TensorHub(project_name=project_environment["TRAINLOOM_PROJECT"]) as hub:
        assert hub.session is session
        assert TensorHub(session=session).session is session
        TensorHub(ip="localhost")
        assert "ip, port, username and password are ignored" in caplog.text
        with pytest.raises(SessionError, match="project"):
            TensorHub(project_name="other")
    hub.save_training_log(accuracy=0.5)  # the session is not the hub's to close


def test_arguments_become_a_mongodb_url() -> None:
    assert mongo_url("localhost", 27017, None, "ignored") == "mongodb://localhost:27017"
    assert mongo_url("::1", None, "an@user", "p:w/d") == "mongodb://an%40user:p%3Aw%2Fd@[::1]:27017"


def test_a_password_is_never_said(open_session: Callable[..., Any]) -> None:
    open_session(mongo_url=None)
    with pytest.raises(SessionError) as raised:
        TensorHub(ip="localhost", username="me", password="secret", project_name="other")
    assert "secret" not in str(raised.value)
