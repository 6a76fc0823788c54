"""Models loaded from rows and store alone, and models stored by hand."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datajoint as dj
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from models_impl.simple_mlp import SimpleMLP
from pipeline.model_weights import NotWeights, UnusableModel, WeightsDoNotFit
from pipeline.resolver import UnresolvedClass
from pipeline.store.errors import NotAnAddress, ObjectDamaged, ObjectMissing
from pipeline.store.interface import Store, parse_address
from schemas.errors import DamagedRow, InvalidRow
from schemas.stored_model import ModelInUse, StoredModel
from schemas.training_result import TrainingResult
from tests.integration.digits_tasks import insert_tasks, train, training

KEY = "training_task_md5_hash"
LAB = """
from torch import nn

class Tied(nn.Module):
    def __init__(self, input_shape, output_shape, width=8):
        super().__init__()
        self.first, self.second = nn.Linear(64, 10), nn.Linear(64, 10)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(10)

    def forward(self, x):
        return self.norm(self.first(x.flatten(1)) + self.second(x.flatten(1)))

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x)
"""
MLP = {
    "name": "digits",
    "model_class": "models_impl.simple_mlp.SimpleMLP",
    "params": {"hidden_size": 4, "dropout": 0.5},
    "input_shape": (1, 8, 8),
    "output_shape": [10],
}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Writes the module `lab_nets` of a package of one's own."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str = LAB) -> None:
        (tmp_path / "lab_nets.py").write_text(text)

    write()
    yield write
    sys.modules.pop("lab_nets", None)


def trained(session: Any, **model: Any) -> dict[str, str]:
    """The key of a trained task."""
    (key,) = insert_tasks(session, training(), **model)
    train()
    return dict(key)


def mlp() -> SimpleMLP:
    torch.manual_seed(1)
    return SimpleMLP((1, 8, 8), [10], hidden_size=4, dropout=0.5)


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


def contents(session: Any) -> tuple[int, int]:
    """How many stored models and objects there are."""
    return len(StoredModel()), len(list(session.store.list()))


def set_column(table: Any, key: dict[str, str], column: str, value: str) -> None:
    ((name, md5),) = key.items()
    statement = f"UPDATE {table.full_table_name} SET {column} = %s WHERE {name} = %s"
    assert table.connection.query(statement, args=(value, md5)).rowcount == 1


def no_cache(session: Any) -> None:
    shutil.rmtree(session.folders.model_save_dir)


@pytest.mark.feature("N8", "S20")
def test_a_trained_model_is_loaded_without_its_data(session: Any) -> None:
    key = trained(session)
    expected = TrainingResult().get_trainer(key)
    images = torch.rand(5, 1, 8, 8)
    no_cache(session)
    shutil.rmtree(session.folders.dataset_dir)
    shutil.rmtree(session.folders.dataset_cache_dir)
    before = torch.random.get_rng_state()

    model = TrainingResult().load_model(key)

    assert type(model) is SimpleMLP
    assert not model.training
    assert same(model, expected.model)
    assert torch.equal(model(images)[0], expected.model.eval()(images)[0])
    assert torch.equal(torch.random.get_rng_state(), before)  # building it draws no random number of the caller's
    assert next(model.parameters()).device == torch.device("cpu")
    assert TrainingResult().load_model(key, "meta").layers[0].weight.is_meta
    assert same(TrainingResult().load_model(TrainingResult().best()), model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_trained_model_is_loaded_onto_a_gpu(postgres_session: Any) -> None:
    key = trained(postgres_session)
    model = TrainingResult().load_model(key, "cuda:0")
    assert {tensor.device for tensor in model.state_dict().values()} == {torch.device("cuda:0")}


def test_the_classes_of_dataset_and_trainer_are_not_needed(
    postgres_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = trained(postgres_session)
    for module in ("datasets_impl.digits", "trainers.nn_trainer"):
        monkeypatch.setitem(sys.modules, module, None)  # whoever imports it fails
    assert isinstance(TrainingResult().load_model(key), SimpleMLP)


def test_the_local_file_is_read_only_if_it_is_the_right_one(
    postgres_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = trained(postgres_session)
    local = postgres_session.folders.model_save_dir / f"{key[KEY]}.weights"
    right = local.read_bytes()
    model = TrainingResult().load_model(key)
    read: list[str] = []
    get_bytes = Store.get_bytes
    monkeypatch.setattr(Store, "get_bytes", lambda store, sha256: read.append(sha256) or get_bytes(store, sha256))

    assert same(TrainingResult().load_model(key), model)
    assert read == []
    other = mlp()
    safetensors.torch.save_file(SimpleMLP((1, 8, 8), [10], hidden_size=16).state_dict(), local)
    assert not same(other, model)
    assert same(TrainingResult().load_model(key), model)
    assert len(read) == 1

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / local.name).write_bytes(right)
    assert same(TrainingResult(model_save_dir=str(tmp_path / "elsewhere")).load_model(key), model)
    assert len(read) == 1


def test_weights_that_layers_share_and_buffers_are_loaded(open_session: Any, tmp_path: Path, lab: Any) -> None:
    session = open_session(allowed_packages=("lab_nets",), code_dir=tmp_path)
    key = trained(session, model={"model_class_module_name": "lab_nets", "model_class_name": "Tied"})
    model = TrainingResult().load_model(key)
    assert same(model, TrainingResult().get_trainer(key).model)
    assert model.second.weight is model.first.weight
    assert model.norm.num_batches_tracked > 0
    again = StoredModel().put(model, name="tied", params={}, input_shape=[1, 8, 8], output_shape=[10])
    assert same(StoredModel().load_model(again), model)


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("trainloom://../../../etc/passwd", NotAnAddress, "is not the address of a stored object"),
        ("file:///etc/passwd", NotAnAddress, "must read trainloom://<sha256>"),
        ("s3://bucket/object", NotAnAddress, "is not the address of a stored object"),
        ("trainloom://" + "A" * 64, NotAnAddress, "is not the address"),
        ("trainloom://" + "0" * 64, ObjectMissing, "There is no object 0000"),
        ("", UnusableModel, "has no weights: its trainer saved no file"),
    ],
)
def test_an_address_that_leads_nowhere(
    postgres_session: Any, address: str, error: type[Exception], message: str
) -> None:
    key = trained(postgres_session)
    set_column(TrainingResult(), key, "model_save_path", address)
    with pytest.raises(error, match=message):
        TrainingResult().load_model(key)


def damage(session: Any, sha256: str) -> None:
    """Change a byte of an object in GridFS."""
    bucket = session.store._database[session.store._bucket]
    file = bucket["files"].find_one({"metadata.sha256": sha256})
    chunk = bucket["chunks"].find_one({"files_id": file["_id"], "n": 0})
    data = bytes(chunk["data"])
    bucket["chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": data[:-1] + bytes([data[-1] ^ 1])}})


@pytest.mark.feature("N8")
def test_a_damaged_object_is_named(postgres_session: Any) -> None:
    key = trained(postgres_session)
    sha256 = parse_address((TrainingResult() & key).fetch1("model_save_path"))
    damage(postgres_session, sha256)
    TrainingResult().load_model(key)  # the local file is whole
    no_cache(postgres_session)
    with pytest.raises(ObjectDamaged, match=f"The object {sha256} .* is damaged"):
        TrainingResult().load_model(key)


def test_a_class_that_is_gone_or_not_allowed(open_session: Any, tmp_path: Path, lab: Any) -> None:
    session = open_session(allowed_packages=("lab_nets",), code_dir=tmp_path)
    key = trained(session, model={"model_class_module_name": "lab_nets", "model_class_name": "Tied"})
    stored = StoredModel().put(
        {"layer.weight": torch.zeros(2, 3), "layer.bias": torch.zeros(2)}, name="plain", model_class="lab_nets.Plain"
    )
    assert StoredModel().load_model(stored)(torch.zeros(1, 3)).tolist() == [[0, 0]]
    session.close()

    open_session(code_dir=tmp_path)
    for load in (lambda: TrainingResult().load_model(key), lambda: StoredModel().load_model(stored)):
        with pytest.raises(UnresolvedClass, match="lab_nets.* is outside the allowed packages"):
            load()
    assert StoredModel().load_state(stored)["layer.bias"].shape == (2,)
    from pipeline.session import connect

    connect(code_dir=tmp_path).close()
    lab("from torch import nn")
    sys.modules.pop("lab_nets")
    open_session(allowed_packages=("lab_nets",), code_dir=tmp_path)
    with pytest.raises(UnresolvedClass, match="the module lab_nets has no model class Tied"):
        TrainingResult().load_model(key)
    with pytest.raises(UnresolvedClass, match="the module lab_nets has no model class Plain"):
        StoredModel().load_model(stored)


def test_a_changed_class_that_the_weights_do_not_fit(open_session: Any, tmp_path: Path, lab: Any) -> None:
    session = open_session(allowed_packages=("lab_nets",), code_dir=tmp_path)
    key = trained(session, model={"model_class_module_name": "lab_nets", "model_class_name": "Tied"})
    session.close()
    for old, new, message in (
        ("self.norm =", "self.standard =", "missing standard.weight.*; unexpected norm"),
        ("nn.BatchNorm1d(10)", "nn.BatchNorm1d(11)", "size mismatch for norm.weight"),
        ("super().__init__()", "raise KeyError('no')", "lab_nets.Tied cannot be built with its parameters: KeyError"),
    ):
        lab(LAB.replace(old, new).replace("self.norm(", "(") if "standard" in new else LAB.replace(old, new))
        sys.modules.pop("lab_nets", None)
        session = open_session(allowed_packages=("lab_nets",), code_dir=tmp_path)
        with pytest.raises(UnusableModel, match=message) as raised:
            TrainingResult().load_model(key)
        assert "\n" not in str(raised.value)
        session.close()
    assert isinstance(raised.value, UnusableModel)


def test_a_row_that_was_changed(postgres_session: Any) -> None:
    key = trained(postgres_session)
    stored = StoredModel().put(mlp(), **{**MLP, "model_class": None})
    row = StoredModel().one(stored)
    set_column(StoredModel(), stored, "stored_model_sha256", "0" * 64)
    assert isinstance(StoredModel().load_model(stored), SimpleMLP)  # what counts is the text of its key
    set_column(
        StoredModel(),
        stored,
        "stored_model_text",
        '{"text": "' + row["stored_model_text"]["text"].replace('"', '\\"').replace("0.5", "0.25") + '"}',
    )
    with pytest.raises(DamagedRow, match="was changed after its insertion"):
        StoredModel().load_model(stored)
    for name in ({KEY: "0" * 32}, {}):
        with pytest.raises(InvalidRow, match="names"):
            StoredModel().load_model({"stored_model_md5_hash": "0" * 32} if name else {"stored_model_name": "x"})
    with pytest.raises(InvalidRow, match="names no result"):
        TrainingResult().load_model({KEY: "0" * 32})
    assert TrainingResult().load_model(key)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 1.5])
def test_a_device_that_is_not_there(postgres_session: Any, device: Any) -> None:
    key = StoredModel().put({"w": torch.zeros(1)}, name="net")
    with pytest.raises(UnusableModel, match="no device"):
        StoredModel().load_state(key, device)


@pytest.mark.feature("N8", "T3")
def test_a_model_put_from_a_file_and_from_python(session: Any, tmp_path: Path) -> None:
    model = mlp()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "net.safetensors")
    extra = {
        "version": "2",
        "description": "by hand",
        "tags": {"of": "digits", "rank": [1, 2]},
        "metrics": {"accuracy": 0.5, "psnr": (30, "max")},
    }
    key = StoredModel().put(tmp_path / "net.safetensors", **MLP, **extra)
    row = (StoredModel() & key).fetch1()
    assert (row["stored_model_name"], row["stored_model_version"], row["stored_model_loads_as"]) == (
        "digits",
        "2",
        "module",
    )
    assert row["stored_model_tags"] == extra["tags"]
    assert row["stored_model_metrics"] == {
        "accuracy": {"value": 0.5, "direction": "max"},
        "psnr": {"value": 30.0, "direction": "max"},
    }
    assert row["stored_model_params"]["num_hidden_layers"] == 1  # the complete set
    assert (row["stored_model_input_shape"], row["stored_model_output_shape"]) == ([1, 8, 8], [10])
    assert session.store.stat(row["stored_model_sha256"]).size == row["stored_model_size"]
    loaded = StoredModel().load_model(key)
    assert same(loaded, model)
    assert not loaded.training
    assert loaded.layers[2].p == 0.5

    assert StoredModel().put(model, **MLP, **extra) == key  # the same tensors are the same bytes
    assert (
        StoredModel().put(model.state_dict(), **{**MLP, "params": {**MLP["params"], "activation": "relu"}}, **extra)
        == key
    )
    assert contents(session) == (1, 1)
    others = [
        StoredModel().put(model, **MLP, **{**extra, "version": "3"}),
        StoredModel().put(model, **{**MLP, "params": {"hidden_size": 4, "dropout": 0.25}}, **extra),
        StoredModel().put(model, **{**MLP, "input_shape": [64]}, **extra),
    ]
    assert len({tuple(other.values()) for other in [key, *others]}) == 4
    assert contents(session) == (4, 1)  # rows of one object


def test_metadata_of_a_known_model_is_kept(session: Any, caplog: pytest.LogCaptureFixture) -> None:
    key = StoredModel().put(mlp(), **MLP, metrics={"accuracy": 0.1})
    assert StoredModel().put(mlp(), **MLP, metrics={"accuracy": 0.2}, description="x") == key
    assert "is already there with another description" in caplog.text
    assert (StoredModel() & key).fetch1("stored_model_metrics")["accuracy"]["value"] == 0.1


def test_a_module_whose_arguments_are_unknown_is_a_state_dict(
    postgres_session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    key = StoredModel().put(mlp(), name="net")
    assert "which arguments models_impl.simple_mlp.SimpleMLP was built with is not known" in caplog.text
    outside = StoredModel().put(nn.Linear(3, 2), name="linear")
    assert "the model loads as a state dict only" in caplog.records[-1].getMessage()
    for stored in (key, outside):
        with pytest.raises(UnusableModel, match=r"loads as a state dict only.*StoredModel\(\)\.load_state"):
            StoredModel().load_model(stored)
    state = StoredModel().load_state(key)
    assert torch.equal(state["layers.0.weight"], mlp().state_dict()["layers.0.weight"])
    assert StoredModel().load_state(outside, "meta")["weight"].is_meta


class Hook:
    """Pickled as a call that leaves a trace."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("was_run"),)


@pytest.mark.feature("N8")
def test_pickles_are_refused_and_not_run(
    postgres_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(mlp(), "whole.pt")
    torch.save({"weight": torch.zeros(1), "hook": Hook()}, "hook.pt")
    torch.save(mlp().state_dict(), "state.pt")
    torch.save({"hook": Hook()}, "old.pt", _use_new_zipfile_serialization=False)
    before = contents(postgres_session)
    for name in ("whole.pt", "hook.pt", "state.pt", "old.pt"):
        with pytest.raises(NotWeights, match=f"the file {name} is a pickle; save the weights with safetensors"):
            StoredModel().put(name, name="net")
    assert contents(postgres_session) == before

    # A trainer of one's own may have left such a file: its weights alone are read.
    key = trained(postgres_session, model={**_row(), "model_class_params": MLP["params"]})
    no_cache(postgres_session)
    for name in ("whole.pt", "hook.pt", "old.pt"):
        address = postgres_session.store.address(postgres_session.store.put(Path(name)).sha256)
        set_column(TrainingResult(), key, "model_save_path", address)
        with pytest.raises(NotWeights, match="is a pickle with more than weights|holds neither safetensors nor"):
            TrainingResult().load_model(key)
    assert not Path("was_run").exists()
    address = postgres_session.store.address(postgres_session.store.put(Path("state.pt")).sha256)
    set_column(TrainingResult(), key, "model_save_path", address)
    assert same(TrainingResult().load_model(key), mlp())


def _row() -> dict[str, str]:
    return {"model_class_module_name": "models_impl.simple_mlp", "model_class_name": "SimpleMLP"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"name": ""}, InvalidRow, "name is empty"),
        ({"name": "x" * 256}, InvalidRow, "name has 256 characters; at most 255 fit"),
        ({"version": 2}, InvalidRow, "version must be text, not int"),
        ({"tags": {"a": float("nan")}}, InvalidRow, "tags.a is nan"),
        ({"tags": "digits"}, InvalidRow, "tags must be a dict of name to value, not str"),
        ({"metrics": [0.5]}, InvalidRow, "metrics must be a dict of name to value, not list"),
        ({"input_shape": [[8], [0]]}, InvalidRow, r"input_shape is \[\[8\], \[0\]\]"),
        ({"metrics": {"psnr": 30.0}}, InvalidRow, r"which way is better of psnr is not known; give \(30.0, 'max'\)"),
        ({"metrics": {"psnr": (30.0, "up")}}, InvalidRow, "which way is better of psnr"),
        ({"metrics": {"accuracy": True}}, InvalidRow, "the metric accuracy must be a number, not True"),
        ({"metrics": {"accuracy": "0.5"}}, InvalidRow, "the metric accuracy must be a number"),
        ({"metrics": {"acc'": 1}}, InvalidRow, "must have a name of at most 64 letters"),
        ({"model_class": "SimpleMLP"}, InvalidRow, "model_class is a class or its module and name"),
        ({"model_class": "os.system"}, UnresolvedClass, "is outside the allowed packages"),
        ({"model_class": "torch.nn.Linear"}, UnresolvedClass, "cannot be a model"),
        ({"params": {"hiden_size": 4}}, InvalidRow, "did you mean hidden_size"),
        ({"params": {"hidden_size": 0}}, UnusableModel, "cannot be built with its parameters: ModelError"),
        ({"model_class": None}, InvalidRow, "params are given without model_class"),
        ({"input_shape": None}, InvalidRow, "SimpleMLP requires input_shape"),
        ({"input_shape": [8, 0]}, InvalidRow, r"input_shape is \[8, 0\]; give the sizes of one example"),
        ({"output_shape": "10"}, InvalidRow, "output_shape is '10'"),
        ({"output_shape": [11]}, WeightsDoNotFit, "size mismatch for layers.3.weight"),
        (
            {"params": {"hidden_size": 4}},
            WeightsDoNotFit,
            "missing layers.2.weight, layers.2.bias; unexpected layers.3",
        ),
    ],
)
def test_a_model_that_cannot_be_put(
    postgres_session: Any, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        StoredModel().put(mlp().state_dict(), **{**MLP, **changes})
    assert "\n" not in str(raised.value)
    assert contents(postgres_session) == (0, 0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"w": 1.0}, "has under 'w' a float, no tensor"),
        ({1: torch.zeros(1)}, "no tensor; give a state dict of tensors by name"),
        ([torch.zeros(1)], "is a list, no state dict"),
    ],
)
def test_what_is_no_state_dict(postgres_session: Any, weights: Any, message: str) -> None:
    with pytest.raises(NotWeights, match=message):
        StoredModel().put(weights, name="net")
    assert contents(postgres_session) == (0, 0)


def test_weights_of_a_model_with_one_layer_more(postgres_session: Any) -> None:
    more = {**mlp().state_dict(), "head.weight": torch.zeros(1)}
    with pytest.raises(WeightsDoNotFit, match="SimpleMLP: unexpected head.weight; use the code") as raised:
        StoredModel().put(more, **MLP)
    assert (raised.value.missing, raised.value.unexpected) == ([], ["head.weight"])
    assert contents(postgres_session) == (0, 0)


def test_files_that_hold_no_weights(postgres_session: Any, tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    safetensors.torch.save_file(mlp().state_dict(), whole)
    for content, message in (
        (whole.read_bytes()[:-1], "is a damaged safetensors file"),
        (b"text", "is no safetensors file"),
        (b"", "no safetensors"),
    ):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(NotWeights, match=message):
            StoredModel().put(str(tmp_path / "file"), name="net")
    with pytest.raises(FileNotFoundError):
        StoredModel().put(tmp_path / "nothing", name="net")
    assert contents(postgres_session) == (0, 0)


def test_a_row_never_names_weights_that_are_not_there(postgres_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that fails leaves no row; an insertion that fails is done again and finds the object there."""

    def fails(*_: Any, **__: Any) -> Any:
        raise ConnectionError("away")

    with monkeypatch.context() as away:
        away.setattr(Store, "put", fails)
        with pytest.raises(ConnectionError):
            StoredModel().put(mlp(), **MLP)
    assert contents(postgres_session) == (0, 0)
    with monkeypatch.context() as away:
        away.setattr(StoredModel, "insert1", fails)
        with pytest.raises(ConnectionError):
            StoredModel().put(mlp(), **MLP)
    assert contents(postgres_session) == (0, 1)
    StoredModel().put(mlp(), **MLP)
    assert contents(postgres_session) == (1, 1)


@pytest.mark.feature("T3")
def test_a_model_is_removed_unless_something_owns_it(session: Any) -> None:
    key, other = (StoredModel().put(mlp(), **MLP, version=version) for version in "12")
    used = dj.Schema(session.settings.schema_name, connection=session.connection)

    class Prediction(dj.Manual):
        definition = """
        -> StoredModel
        """

    used(Prediction, context={"StoredModel": StoredModel})
    Prediction().insert1(key)
    try:
        with pytest.raises(
            ModelInUse, match=r"the model digits \(\w{8}\) is still used by rows of .*prediction; delete"
        ):
            StoredModel().remove(key)
        assert contents(session) == (2, 1)
        StoredModel().remove(other)
        Prediction().delete_quick()
        StoredModel().remove(key)
        assert contents(session) == (0, 1)  # the object is left to the collector
        with pytest.raises(InvalidRow, match="names no stored model"):
            StoredModel().remove(key)
    finally:
        Prediction().drop_quick()


def test_state_dicts_with_views_and_dtypes_come_back(postgres_session: Any) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state: dict[str, Tensor] = {
        "view": base[1:],
        "transposed": base.T,
        "whole": base,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.empty(0, 3),
        "flag": torch.tensor(True),
    }
    loaded = StoredModel().load_state(StoredModel().put(state, name="views"))
    assert loaded.keys() == state.keys()
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in state.items()
    )


def test_two_sessions_put_the_same_at_once(postgres_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(table: Any, row: Any, **options: Any) -> None:
        dj.Table.insert1(table, row, **options)  # another session was faster
        dj.Table.insert1(table, row, **options)

    monkeypatch.setattr(StoredModel, "insert1", late)
    key = StoredModel().put(mlp(), **MLP)
    assert contents(postgres_session) == (1, 1)
    assert (StoredModel() & key).fetch1("stored_model_name") == "digits"
