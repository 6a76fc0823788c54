"""Models in formats that hold their code: what other programs compute with them is what torch computes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from models_impl.residual_cnn import ResidualCNN
from models_impl.simple_mlp import SimpleMLP
from models_impl.small_cnn import SmallCNN
from pipeline.model_catalog import Kind, Model
from pipeline.model_export import Format, export
from pipeline.model_weights import UnusableModel
from pipeline.store.folder import FolderStore

IMAGES = (1, 8, 8)
MODELS = {
    "mlp": SimpleMLP(IMAGES, [10], hidden_size=8, dropout=0.5),
    "regularised": SimpleMLP(IMAGES, [2, 3], hidden_size=8, l1_loss_lamda=0.1, l2_loss_lamda=0.1),
    "small": SmallCNN(IMAGES, [10]),
    "residual": ResidualCNN(IMAGES, [10]),
}


class Several(nn.Module):
    """Several outputs by name, and a regularization loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return {"class": self.layer(x), "double": 2 * x}, self.layer.weight.sum()


class Branching(Several):
    def forward(self, x: Tensor) -> Any:
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


class OneSize(Several):
    def forward(self, x: Tensor) -> Any:
        return self.layer(x.view(2, 3))


def described(cls: type, input_shape: Any) -> Model:
    return Model(
        **{"kind": Kind.STORED, "key": "0" * 32, "name": "net", "version": "", "description": "", "tags": {}},
        model_class={"module": cls.__module__, "name": cls.__qualname__},
        **{"params": {}, "input_shape": list(input_shape), "output_shape": None, "address": "", "size": None},
        metrics={},
        time=datetime(2026, 1, 1, tzinfo=UTC),
    )


def write(module: nn.Module, folder: Path, form: Format, input_shape: Any = IMAGES) -> Path:
    """The file of the exported model."""
    store = FolderStore(folder.parent / "store")
    told = export(described(type(module), input_shape), folder, store, load=lambda: module, form=form)
    assert json.loads((folder / "model.json").read_text()) == told
    return folder / told["weights"]["file"]


@pytest.mark.feature("N8")
@pytest.mark.parametrize("name", MODELS)
def test_onnx_computes_what_torch_does_for_any_batch(name: str, tmp_path: Path) -> None:
    module = MODELS[name].eval()
    path = write(module, tmp_path / "out", Format.ONNX)
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=True)
    (given,), (got,) = loaded.graph.input, loaded.graph.output
    assert (given.name, got.name) == ("input", "output")
    assert [side.dim_param or side.dim_value for side in given.type.tensor_type.shape.dim] == ["batch", *IMAGES]
    for batch in (1, 2, 7):
        images = torch.randn(batch, *IMAGES)
        with torch.no_grad():
            expected = module(images)[0]
        (found,) = ReferenceEvaluator(loaded).run(None, {"input": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected)


def test_outputs_keep_their_names_in_onnx(tmp_path: Path) -> None:
    module = Several().eval()
    loaded = ReferenceEvaluator(str(write(module, tmp_path / "out", Format.ONNX, (3,))))
    assert loaded.output_names == ["class", "double"]
    x = torch.randn(5, 3)
    first, second = loaded.run(None, {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(first), module.layer(x).detach())
    torch.testing.assert_close(torch.from_numpy(second), 2 * x)


@pytest.mark.parametrize("name", MODELS)
def test_torchscript_computes_what_torch_does(name: str, tmp_path: Path) -> None:
    module = MODELS[name].eval()
    path = write(module, tmp_path / "out", Format.TORCHSCRIPT)
    with pytest.warns(DeprecationWarning):  # torch has other ways by now
        script = torch.jit.load(path)
    images = torch.randn(7, *IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(script(images), module(images)[0])


@pytest.mark.parametrize(
    ("module", "form", "said"),
    [
        (Branching(), Format.ONNX, "Branching cannot be written as onnx: GuardOnDataDependentSymNode: Could not guard"),
        (OneSize(), Format.ONNX, "OneSize cannot be written as onnx: its code allows batches of one size only; export"),
        (OneSize(), Format.TORCHSCRIPT, "OneSize cannot be written as torchscript: RuntimeError: shape"),
    ],
)
def test_what_torch_cannot_write_is_one_sentence(
    module: nn.Module, form: Format, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnusableModel) as refused:
        write(module, tmp_path / "out", form, (3,))
    assert str(refused.value).startswith(said)
    assert str(refused.value).endswith("export it as safetensors")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == []
    assert capfd.readouterr() == ("", ""), "torch prints its graphs"


@pytest.mark.parametrize("form", [Format.ONNX, Format.TORCHSCRIPT])
@pytest.mark.parametrize("shape", [[[3], [4]], {"x": [3]}, None])
def test_a_model_without_one_input_has_no_example(form: Format, shape: Any, tmp_path: Path) -> None:
    model = replace(described(Several, (3,)), input_shape=shape)
    with pytest.raises(
        UnusableModel, match=f"^{form} needs an example, and the model 00000000 has no single input_shape"
    ):
        export(model, tmp_path / "out", FolderStore(tmp_path / "store"), load=Several, form=form)
    assert list(tmp_path.iterdir()) == []


def test_a_trace_that_follows_one_branch_only_is_said(tmp_path: Path) -> None:
    with pytest.warns(torch.jit.TracerWarning, match="might not generalize"):
        write(Branching(), tmp_path / "out", Format.TORCHSCRIPT, (3,))


@pytest.mark.parametrize("hidden", ["onnx", "onnxscript"])
def test_a_missing_package_is_named(hidden: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = PathFinder.find_spec

    def hide(name: str, *rest: Any) -> Any:
        return None if name == hidden else find(name, *rest)

    monkeypatch.delitem(sys.modules, hidden)
    monkeypatch.setattr(PathFinder, "find_spec", hide)
    with pytest.raises(UnusableModel, match=rf"^ONNX needs {hidden}; run `pip install 'trainloom\[onnx\]'`$"):
        write(MODELS["mlp"], tmp_path / "out", Format.ONNX)
    assert list(tmp_path.iterdir()) == []
