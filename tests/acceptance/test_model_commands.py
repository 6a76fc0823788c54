"""`trainloom model` on a project of real rows, from the command line to the bytes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from models_impl.simple_mlp import SimpleMLP
from pipeline import model_export
from pipeline.cli.error_chain import describe
from pipeline.cli.main import build_parser
from pipeline.session import connect
from schemas.checkpoint import Checkpoint
from schemas.stored_model import StoredModel
from schemas.training_result import TrainingResult
from tests.integration.digits_tasks import insert_tasks, train, training
from tests.integration.test_models import damage, mlp

KEY = "training_task_md5_hash"
PUT = (
    "--name",
    "digits",
    "--class",
    "models_impl.simple_mlp.SimpleMLP",
    "--params",
    '{"hidden_size": 4, "dropout": 0.5}',
)
SHAPES = ("--input-shape", "1,8,8", "--output-shape", "10")


@dataclass
class Told:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def trainloom(
    project_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Callable[..., Told]]:
    """Runs a command in this process, in a folder with `net.safetensors`."""
    monkeypatch.chdir(tmp_path)
    safetensors.torch.save_file(mlp().state_dict(), "net.safetensors")

    def run(*arguments: str) -> Told:
        args = build_parser().parse_args(["model", *arguments])
        try:
            code, error = args.action(args), ""
        except Exception as raised:  # as the command prints it
            code, error = 1, describe(raised)
        return Told(code, capsys.readouterr().out, error)

    yield run
    sys.modules.pop("net", None)


@pytest.fixture
def task(trainloom: Callable[..., Told]) -> str:
    """The key of a trained task."""
    with connect() as session:
        (key,) = insert_tasks(session, training())
        train()
    return str(key[KEY])


def put(trainloom: Callable[..., Told], *more: str) -> str:
    return str(trainloom("put", "net.safetensors", *PUT, *SHAPES, *more, "--json").json()["key"])


@pytest.mark.feature("N8", "T3")
def test_models_are_put_listed_and_removed(trainloom: Callable[..., Told], task: str) -> None:
    assert trainloom("put", "net.safetensors", *PUT, *SHAPES).out.endswith(" is stored as digits\n")
    extra = ("--version", "2", "--tag", "of=digits", "--metric", "accuracy=0.01", "--metric", "psnr=30:max")
    key = put(trainloom, *extra)
    assert put(trainloom, *extra) == key

    listed = trainloom("ls", "--json").json()
    assert [row["kind"] for row in listed] == ["stored", "stored", "trained"]
    assert [row["key"] for row in listed[::2]] == [key, task]
    stored, trained = listed[0], listed[2]
    assert (stored["name"], stored["version"], stored["tags"]) == ("digits", "2", {"of": "digits"})
    assert stored["class"] == {"module": "models_impl.simple_mlp", "name": "SimpleMLP"}
    assert stored["metrics"]["psnr"] == {"value": 30.0, "direction": "max"}
    assert (trained["name"], trained["input_shape"], trained["params"]["hidden_size"]) == ("digits.h5", [1, 8, 8], 16)
    assert trained["metrics"]["accuracy"]["value"] > 0.01
    assert trained["size"] > 0

    assert [row["key"] for row in trainloom("ls", "--sort", "accuracy", "--json").json()][:2] == [task, key]
    assert [row["key"] for row in trainloom("ls", "--sort", "time", "--limit", "1", "--json").json()] == [task]
    assert [row["key"] for row in trainloom("ls", "--sort", "psnr", "--limit", "1", "--json").json()] == [key]
    chosen = trainloom("ls", "--stored", "--filter", "stored_model_version=2", "--json").json()
    assert [row["key"] for row in chosen] == [key]
    assert trainloom("ls", "--trained", "-f", "seed=1").out == "no models for this filter\n"
    header, first, *_ = trainloom("ls").out.splitlines()
    assert header.split() == ["key", "kind", "name", "version", "class", "metrics", "size", "time"]
    assert first.startswith(f"{key[:8]}  stored   digits")

    assert trainloom("rm", key[:8], "--json").json() == {"removed": key}
    assert len(trainloom("ls", "--stored", "--json").json()) == 1
    refused = trainloom("rm", task)
    assert (refused.code, "there is no stored model with a key" in refused.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ls", "--filter", "seed=1"), "--filter needs --trained or --stored"),
        (("ls", "--sort", "acuracy"), "no model has the metric or column 'acuracy'"),
        (("ls", "--trained", "-f", "sed=1"), "models cannot be searched with"),
        (("get", "abcd", "-o", "out"), "there is no model with a key that begins with abcd; `trainloom model ls`"),
        (("get", "no key", "-o", "out"), "there is no model with a key that begins with no key"),
        (("put", "nothing", "--name", "net"), "No such file"),
        (("put", "net.safetensors", "--name", "net", "--tag", "x"), "--tag takes NAME=VALUE"),
        (("put", "net.safetensors", "--name", "net", "--class", "os.system"), "outside the allowed packages"),
        (("put", "net.safetensors", "--name", "net", "--metric", "psnr=3"), "which way is better of psnr"),
        (("verify", "abcd"), "there is no model with a key that begins with abcd"),
    ],
)
def test_an_error_is_one_sentence(trainloom: Callable[..., Told], arguments: tuple[str, ...], message: str) -> None:
    put(trainloom)
    told = trainloom(*arguments)
    assert told.code == 1
    assert message in told.err
    assert told.out == ""
    assert not Path("out").exists()


def test_arguments_of_another_form(trainloom: Callable[..., Told], capsys: pytest.CaptureFixture[str]) -> None:
    for option, value, message in (
        ("--params", "[1]", "is no JSON object"),
        ("--params", "{", "is no JSON"),
        ("--metric", "accuracy", "is no metric such as"),
        ("--input-shape", "a,b", "is no shape such as"),
    ):
        with pytest.raises(SystemExit):
            trainloom("put", "net.safetensors", "--name", "net", option, value)
        assert message in capsys.readouterr().err


@pytest.mark.feature("N8")
def test_what_each_model_takes_is_told(trainloom: Callable[..., Told]) -> None:
    assert trainloom("du").out == "no model has anything in the store yet; train a task, or `trainloom model put`\n"
    with connect() as session:
        keys = [key[KEY] for key in insert_tasks(session, training(), seeds=(0, 1))]
        train({KEY: keys[0]})
        state = session.store.put(bytes(5_000_000), kind="checkpoint")
        row = {KEY: keys[1], "checkpoint_sha256": state.sha256, "checkpoint_size": state.size, "checkpoint_epoch": 1}
        Checkpoint().insert1({**row, "checkpoint_step": 0, "checkpoint_code": "0" * 32, "checkpoint_attempt": "0" * 32})
        dataset = next(stored.sha256 for stored in session.store.list() if stored.kind == "dataset")
        objects = {stored.sha256: stored.size for stored in session.store.list() if stored.sha256 != dataset}
    first, second = put(trainloom), put(trainloom, "--version", "2")  # the same weights
    shared = Path("net.safetensors").stat().st_size

    told = trainloom("du", "--json").json()
    assert told["all"] == {"number": len(objects) + 1, "bytes": sum(objects.values()) + shared}
    by_key = {model["key"]: model for model in told["models"]}
    assert [model["key"] for model in told["models"]] == [keys[1], keys[0], *sorted((first, second))]
    assert [by_key[key]["kind"] for key in (*keys, first)] == ["trained", "unfinished", "stored"]
    assert [by_key[key]["name"] for key in (*keys, first)] == ["digits.h5", "", "digits"]
    assert by_key[keys[1]]["kinds"] == {"checkpoint": {"number": 1, "bytes": 5_000_000}}
    assert by_key[keys[1]]["own_bytes"] == 5_000_000
    assert (by_key[first]["bytes"], by_key[first]["own_bytes"]) == (shared, 0)
    trained = by_key[keys[0]]
    assert trained["kinds"].keys() == {"blob", "weights"}
    assert trained["own_bytes"] == trained["bytes"] == sum(objects.values()) - 5_000_000

    assert [model["key"] for model in trainloom("du", "--limit", "1", "--json").json()["models"]] == [keys[1]]
    header, largest, *_, last = trainloom("du").out.splitlines()
    assert header.split() == ["key", "kind", "name", "objects", "size", "its", "own", "weights", "checkpoints", "rest"]
    sizes = ["4.8", "MiB", "4.8", "MiB", "0", "B", "4.8", "MiB", "0", "B"]
    assert largest.split() == [keys[1][:8], "unfinished", "-", "1", *sizes]
    assert last.startswith(f"all models together: {len(objects) + 1} objects (")


@pytest.mark.feature("N8")
def test_what_a_removed_model_leaves_is_freed(trainloom: Callable[..., Told]) -> None:
    key, kept = put(trainloom), str(trainloom("put", "net.safetensors", "--name", "bare", "--json").json()["key"])
    trainloom("rm", key)
    shared = trainloom("gc", "--grace", "0", "--delete", "--json").json()
    assert (shared["freed"], shared["owned"]["weights"]["number"]) == ({}, 1)
    safetensors.torch.save_file(SimpleMLP((1, 8, 8), [10], hidden_size=4).state_dict(), "other.safetensors")
    other = str(trainloom("put", "other.safetensors", "--name", "other", "--json").json()["key"])
    trainloom("rm", other)
    told = trainloom("gc", "--grace", "0")
    assert "1 objects" in told.out
    assert "`trainloom store gc --delete` frees them" in told.out
    assert trainloom("gc", "--grace", "0", "--delete", "--json").json()["freed"]["weights"]["number"] == 1
    assert trainloom("get", kept, "-o", "out").code == 0


@pytest.mark.feature("N8")
def test_a_trained_model_is_exported_with_where_it_comes_from(trainloom: Callable[..., Told], task: str) -> None:
    with connect() as session:
        model = TrainingResult().load_model({KEY: task})
        address = (TrainingResult() & {KEY: task}).fetch1("model_save_path")
        project_id = session.project_id
    told = trainloom("export", task[:8], "-o", "out/deep", "--json").json()
    folder = Path("out/deep")
    described = json.loads((folder / "model.json").read_text())
    assert told == {"folder": "out/deep", **described}
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert [path.name for path in Path("out").iterdir()] == ["deep"]
    assert described["provenance"]["address"] == address == f"trainloom://{described['weights']['sha256']}"
    assert (described["provenance"]["key"], described["provenance"]["project_id"]) == (task, project_id)
    assert described["metrics"].keys() == {"accuracy", "loss"}
    cls = getattr(importlib.import_module(described["class"]["module"]), described["class"]["name"])
    again = cls(described["input_shape"], described["output_shape"], **described["params"])
    safetensors.torch.load_model(again, folder / "model.safetensors")
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(again.eval()(images)[0], model(images)[0])

    got = trainloom("get", task, "-o", "got", "--json").json()
    assert got == {"folder": "got", **{name: value for name, value in described.items() if name != "provenance"}}
    assert Path("got/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.feature("N8")
def test_torchscript_runs_without_the_class(trainloom: Callable[..., Told]) -> None:
    key = put(trainloom)
    described = trainloom("export", key[:6], "-o", "script", "--format", "torchscript", "--json").json()
    assert described["weights"]["file"] == "model.pt"
    images = torch.rand(3, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch has other ways by now
        script = torch.jit.load("script/model.pt")
    assert torch.equal(script(images), mlp().eval()(images)[0])


@pytest.mark.feature("N8")
def test_onnx_runs_without_torch(trainloom: Callable[..., Told], task: str) -> None:
    from onnx.reference import ReferenceEvaluator

    described = trainloom("export", task[:8], "-o", "net", "--format", "onnx", "--json").json()
    assert described["weights"]["file"] == "model.onnx"
    with connect():
        model = TrainingResult().load_model({KEY: task})
    images = torch.rand(3, 1, 8, 8)
    (found,) = ReferenceEvaluator("net/model.onnx").run(None, {"input": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(images)[0].detach())


def test_onnx_says_what_it_needs(trainloom: Callable[..., Told], monkeypatch: pytest.MonkeyPatch) -> None:
    key = put(trainloom)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if "onnx" in name else find_spec(name, *more)
    )
    told = trainloom("export", key, "-o", "out", "--format", "onnx")
    assert told.code == 1
    assert "ONNX needs onnx and onnxscript; run `pip install 'trainloom[onnx]'`" in told.err
    assert not Path("out").exists()


def test_an_export_is_whole_or_not_there(
    trainloom: Callable[..., Told], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = put(trainloom)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for taken in ("full", "file"):
        told = trainloom("get", key, "-o", taken)
        assert told.err == f"error: {taken} is there already and not empty; name a folder that does not exist"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["note"]
    assert trainloom("get", key, "-o", "empty").code == 0
    before = {path.name for path in tmp_path.iterdir()}

    def fails(*_: Any) -> Any:
        assert [path.name for path in next(tmp_path.glob(".out.*")).iterdir()] == ["model.safetensors"]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_export, "_description", fails)
    assert "No space left" in trainloom("get", key, "-o", "out").err
    assert {path.name for path in tmp_path.iterdir()} == before


KILLED = """
import os, signal, sys
from pipeline import model_export
from pipeline.cli.main import main
model_export._description = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main(["model", "get", sys.argv[1], "-o", "out"])
"""


def test_a_killed_export_leaves_nothing_under_its_name(trainloom: Callable[..., Told], tmp_path: Path) -> None:
    key = put(trainloom)
    path = [str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    killed = subprocess.run([sys.executable, "-c", KILLED, key], check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in next(tmp_path.glob(".out.*")).iterdir()] == ["model.safetensors"]
    assert not Path("out").exists()
    assert trainloom("get", key, "-o", "out").code == 0


def test_a_state_dict_is_got_but_has_no_code_to_export(trainloom: Callable[..., Told]) -> None:
    key = str(trainloom("put", "net.safetensors", "--name", "bare", "--json").json()["key"])
    described = trainloom("get", key, "-o", "got", "--json").json()
    assert (described["class"], described["input_shape"]) == (None, None)
    assert safetensors.torch.load_file("got/model.safetensors").keys() == mlp().state_dict().keys()
    told = trainloom("export", key, "-o", "out", "--format", "torchscript")
    assert "the model bare loads as a state dict only; export it as safetensors" in told.err
    assert not Path("out").exists()


@pytest.mark.feature("N8")
def test_damaged_and_missing_weights_are_named(trainloom: Callable[..., Told], task: str) -> None:
    key = put(trainloom)
    other = put(trainloom, "--version", "2")
    assert trainloom("verify").out == "2 objects read, 0 damaged\n"
    assert trainloom("verify", task[:8], "--json").json() == {"objects": 1, "damaged": []}
    with connect() as session:
        sha256 = StoredModel().one({"stored_model_md5_hash": key})["stored_model_sha256"]
        damage(session, sha256)
    told = trainloom("verify")
    assert told.code == 1
    assert f"The object {sha256}" in told.out
    assert told.out.endswith("2 objects read, 1 damaged\n")
    answer = trainloom("verify", key[:8], other, "--json")
    (found,) = json.loads(answer.out)["damaged"]
    assert (answer.code, found["models"]) == (1, sorted([key, other]))
    assert trainloom("verify", task).code == 0

    told = trainloom("get", key, "-o", "out")
    assert f"The object {sha256}" in told.err
    assert not Path("out").exists()
    with connect() as session:
        session.store.delete(sha256)
    assert f"There is no object {sha256}" in trainloom("verify").out


def test_weights_of_torch_save_are_exported_as_safetensors(trainloom: Callable[..., Told], task: str) -> None:
    """A trainer of one's own may have written its state dict with torch.save."""
    torch.save(SimpleMLP((1, 8, 8), [10], hidden_size=16).state_dict(), "state.pt")
    with connect() as session:
        address = session.store.address(session.store.put(Path("state.pt")).sha256)
        table = TrainingResult().full_table_name
        session.connection.query(f"UPDATE {table} SET model_save_path = '{address}'")
    assert trainloom("get", task, "-o", "got").code == 0
    state = safetensors.torch.load_file("got/model.safetensors")
    assert torch.equal(state["layers.0.weight"], torch.load("state.pt", weights_only=True)["layers.0.weight"])
