"""Which weights of a file a training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.small_training import scale_trainer
from trainers.contract import TrainerError
from trainers.initial_weights import WarmStartPolicy, load


class Pair(nn.Module):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, width)
        self.encoder2 = nn.Linear(3, 2)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    safetensors.torch.save_model(Pair(), str(tmp_path / "start.weights"))
    return tmp_path / "start.weights"


def taken(model: nn.Module, file: Path, **policy: Any) -> tuple[set[str], str | None]:
    """The names whose weights changed, and what was said to be left out."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    left_out = load(WarmStartPolicy(**policy), file, model)
    return {name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}, left_out


def test_all_weights_by_default(file: Path) -> None:
    model = Pair()
    assert taken(model, file) == (set(model.state_dict()), None)


@pytest.mark.feature("S13")
@pytest.mark.parametrize("prefix", ["encoder", "encoder."])
def test_only_those_of_a_prefix(file: Path, prefix: str) -> None:
    assert taken(Pair(), file, initial_weights_prefix=prefix) == ({"encoder.weight", "encoder.bias"}, None)


@pytest.mark.feature("S13")
def test_the_prefix_may_have_another_name_here(file: Path) -> None:
    model = Pair()
    names = {"encoder2.weight", "encoder2.bias"}
    assert taken(model, file, initial_weights_prefix="encoder", initial_weights_renamed="encoder2") == (names, None)
    assert model.encoder2.weight.equal(safetensors.torch.load_file(file)["encoder.weight"])
    bare = nn.Linear(3, 2)
    moved = taken(bare, file, initial_weights_prefix="encoder", initial_weights_renamed="")
    assert moved == ({"weight", "bias"}, None)
    whole = nn.ModuleDict({"inner": Pair()})
    assert taken(whole, file, initial_weights_renamed="inner") == (set(whole.state_dict()), None)


@pytest.mark.feature("S13")
def test_what_does_not_fit_is_an_error_that_names_all_of_it(file: Path) -> None:
    class Other(Pair):
        def __init__(self) -> None:
            super().__init__(width=5)
            self.extra = nn.Linear(1, 1, bias=False)
            del self.encoder2

    before = Other()
    model = Other()
    model.load_state_dict(before.state_dict())
    with pytest.raises(TrainerError) as refused:
        load(WarmStartPolicy(), file, model)
    for said in (
        f"The weights at {file} do not fit Other",
        "missing: extra.weight",
        "unexpected: encoder2.bias, encoder2.weight",
        "encoder.weight is (2, 3), here it is (5, 3)",
        "initial_weights_strict",
    ):
        assert said in str(refused.value)
    assert all(tensor.equal(before.state_dict()[name]) for name, tensor in model.state_dict().items())
    names, left_out = taken(model, file, initial_weights_strict=False)
    assert names == {"head.bias"}
    assert left_out is not None and left_out.startswith("missing: extra.weight; unexpected: encoder2.bias")


def test_what_was_left_out_is_among_the_choices(tmp_path: Path, file: Path) -> None:
    safetensors.torch.save_file({"factor": torch.tensor(7.0), "other": torch.zeros(1)}, file)
    params = {"initial_weights": file, "initial_weights_strict": False}
    trainer = scale_trainer(tmp_path, **params)
    assert trainer.model.factor.item() == 7.0
    assert trainer.choices["initial_weights"] == "unexpected: other"
    with pytest.raises(TrainerError, match="unexpected: other"):
        scale_trainer(tmp_path, initial_weights=file)


def test_a_weight_that_layers_share_is_once_in_the_file(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
            self.second.weight = self.first.weight

    safetensors.torch.save_model(Tied(), str(tmp_path / "tied"))
    model = Tied()
    assert load(WarmStartPolicy(), tmp_path / "tied", model) is None
    assert model.first.weight is model.second.weight


def test_files_that_hold_nothing_to_take_are_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(TrainerError, match="initial_weights_prefix is 'enc', which begins no name"):
        load(WarmStartPolicy("enc"), file, Pair())
    with pytest.raises(TrainerError, match="None of the weights at .* fits Linear"):
        load(WarmStartPolicy(initial_weights_strict=False), file, nn.Linear(4, 4))
    with pytest.raises(TrainerError, match="There are no weights at .*missing to start from"):
        load(WarmStartPolicy(), tmp_path / "missing", Pair())
    (tmp_path / "torn").write_bytes(file.read_bytes()[:50])
    with pytest.raises(TrainerError, match="torn is no whole safetensors file"):
        load(WarmStartPolicy(), tmp_path / "torn", Pair())


@pytest.mark.parametrize(
    "params",
    [{"initial_weights_prefix": 3}, {"initial_weights_renamed": 3}, {"initial_weights_strict": "yes"}],
)
def test_wrong_parameters_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(TrainerError, match=f"{next(iter(params))} is "):
        WarmStartPolicy(**params)
