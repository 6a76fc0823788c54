"""Checkpoints as bytes: what was saved comes back exactly, and what was not saved here is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainers import checkpoint, checkpoint_schedule, learned_state, numerics, optimizer, randomness
from trainers.best_weights import BestWeights
from trainers.checkpoint import MAGIC, DamagedCheckpoint, Header, pack, read_header, unpack
from trainers.checkpoint_policy import CheckpointPolicy
from trainers.checkpoint_schedule import CheckpointSchedule
from trainers.contract import Retention, TrainerError
from trainers.epoch_losses import EpochLosses
from trainers.learned_state import ForeignCheckpoint, UnstorableState

CPU = torch.device("cpu")
HEADER = Header(2, 17, {"threads": 3}, {"model": "Net", "optimizer": "Adam", "parameters": {}})


def test_everything_comes_back_as_it_was() -> None:
    state = {
        "tensors": {"a": torch.randn(3), "b": [torch.tensor(2, dtype=torch.int8), torch.randn(2).bfloat16()]},
        "numbers": [0.1, float("nan"), float("-inf"), 2**62, True, None, "text", (1, 2)],
    }
    header, loaded = unpack(pack(HEADER, state))
    assert header == HEADER
    assert loaded["tensors"]["a"].equal(state["tensors"]["a"])
    assert [(part.dtype, part.tolist()) for part in loaded["tensors"]["b"]] == [
        (part.dtype, part.tolist()) for part in state["tensors"]["b"]
    ]
    assert repr(loaded["numbers"]) == repr(state["numbers"])


def test_the_numerics_can_be_read_before_anything_is_built() -> None:
    recorded = numerics.record()
    content = pack(Header(0, 1, recorded, {}), {"weights": torch.zeros(10)})
    damaged_body = content[:-20] + b"?" * 20
    assert read_header(damaged_body).numerics == recorded


def test_a_changed_bit_anywhere_is_noticed() -> None:
    content = pack(HEADER, {"weights": torch.arange(64.0)})
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 0b100
        with pytest.raises(DamagedCheckpoint):
            unpack(bytes(changed))


@pytest.mark.parametrize("size", [0, 5, len(MAGIC) + 3, len(MAGIC) + 30, -1, -500])
def test_a_checkpoint_that_was_cut_off_is_noticed(size: int) -> None:
    with pytest.raises(DamagedCheckpoint, match="take the one before it"):
        unpack(pack(HEADER, {"weights": torch.arange(640.0)})[:size])


def test_another_format_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 9)
    content = pack(HEADER, {})
    monkeypatch.undo()
    with pytest.raises(DamagedCheckpoint, match="has format 9, this version reads 2"):
        read_header(content)


def test_nothing_in_a_checkpoint_can_run_code(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "written"), "w"))

    with pytest.raises(DamagedCheckpoint, match="cannot be read by torch"):
        unpack(pack(HEADER, {"attack": Attack()}))
    assert list(tmp_path.iterdir()) == []


def test_random_states_come_back() -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(()).item()]

    draw()  # leaves half of a pair of normal numbers behind in Python's and NumPy's generators
    _, state = unpack(pack(HEADER, randomness.capture(CPU)))
    first = draw()
    draw()
    randomness.restore(state, CPU)
    assert draw() == first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_random_states_of_gpus_come_back() -> None:
    device = torch.empty(0, device="cuda").device
    _, state = unpack(pack(HEADER, randomness.capture(device)))
    first = torch.rand(3, device=device)
    randomness.restore(state, device)
    assert torch.rand(3, device=device).equal(first)


def test_losses_of_half_an_epoch_come_back_exactly() -> None:
    def record(losses: EpochLosses, steps: range) -> None:
        for step in steps:
            losses.add(torch.tensor(0.1 * step), torch.tensor(1e-3 / (step + 1)) if step % 2 else 0.0, 4 + step)

    straight = EpochLosses()
    record(straight, range(9))
    half = EpochLosses()
    record(half, range(5))
    _, state = unpack(pack(HEADER, half.state()))
    for resumed in (EpochLosses.from_state(state), half):  # the saved one goes on as well
        record(resumed, range(5, 9))
        assert resumed.means() == straight.means()
        assert len(resumed) == 9


def test_a_loss_that_is_not_finite_keeps_its_step() -> None:
    losses = EpochLosses()
    for value in (1.0, float("nan"), 2.0):
        losses.add(torch.tensor(value), 0.0, 1)
    assert EpochLosses.from_state(unpack(pack(HEADER, losses.state()))[1]).first_non_finite() == 1


def test_an_optimizers_averages_keep_their_type() -> None:
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    built = torch.optim.SGD([weight], lr=0.1)
    average = torch.tensor([0.1, 0.2, 0.3])
    state = {**built.state_dict(), "state": {0: {"average": average}}}
    optimizer.restore(built, state)
    assert built.state[weight]["average"].dtype is torch.float32
    assert built.state[weight]["average"].equal(average)


def test_restored_best_weights_are_loaded_and_overwritten(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    best = BestWeights(tmp_path / "best")
    best.restore({"weight": torch.tensor([[2.0]]), "bias": torch.tensor([3.0])})
    best.load_into(model, CPU)
    assert (model.weight.item(), model.bias.item()) == (2.0, 3.0)
    with torch.no_grad():
        model.weight.fill_(5.0)
    best.keep(model)
    assert best.state()["weight"].item() == 5.0


def test_what_a_checkpoint_cannot_hold_is_named() -> None:
    class Remembering(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"seen": [1, {2}]}

    model = Remembering(1, 1)
    built = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UnstorableState, match=r"model\._extra_state\.seen\.1 is a set; a checkpoint holds tensors"):
        learned_state.state(model, built, nn.MSELoss())


def test_the_criterions_state_belongs_to_it() -> None:
    def parts() -> tuple[nn.Linear, torch.optim.Optimizer, nn.BatchNorm1d]:
        model = nn.Linear(1, 1)
        return model, torch.optim.SGD(model.parameters()), nn.BatchNorm1d(1)

    first, second = parts(), parts()
    first[2].running_mean += 2
    learned_state.restore(learned_state.state(*first), *second)
    assert second[2].running_mean.item() == 2
    assert second[0].weight.equal(first[0].weight)


def test_buffers_of_another_shape_are_foreign() -> None:
    class Counting(nn.Linear):
        def __init__(self, size: int) -> None:
            super().__init__(1, 1)
            self.register_buffer("counts", torch.zeros(size))

    states = []
    for size in (2, 3):
        model = Counting(size)
        states.append((model, torch.optim.SGD(model.parameters()), nn.MSELoss()))
    with pytest.raises(ForeignCheckpoint, match="made by other code: .*counts.*start anew"):
        learned_state.restore(learned_state.state(*states[0]), *states[1])


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"checkpoint_epochs": -1}, "checkpoint_epochs is -1; it must be an integer of at least 0"),
        ({"checkpoint_epochs": True}, "checkpoint_epochs is True"),
        ({"checkpoint_minutes": -0.5}, "checkpoint_minutes is -0.5; it must be a number of at least 0"),
        ({"checkpoint_minutes": float("nan")}, "checkpoint_minutes is nan"),
        ({"checkpoint_minutes": None}, "checkpoint_minutes is None"),
        ({"checkpoints_kept": 0}, "checkpoints_kept is 0; it must be an integer of at least 1"),
        ({"checkpoints_kept": None}, "checkpoints_kept is None"),
        ({"checkpoints_kept_best": 1.5}, "checkpoints_kept_best is 1.5"),
        ({"checkpoints_kept_every": -2}, "checkpoints_kept_every is -2"),
    ],
)
def test_wrong_policies_are_named(params: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainerError, match=said):
        CheckpointPolicy(**params)


def test_the_policy_is_the_retention() -> None:
    policy = CheckpointPolicy(checkpoints_kept=4, checkpoints_kept_best=3, checkpoints_kept_every=2)
    assert policy.retention("max") == Retention(last=4, best=3, every=2, direction="max")


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(checkpoint_schedule, "time", clock)
    return clock


def test_a_checkpoint_is_due_so_many_minutes_after_the_last(clock: Clock) -> None:
    schedule = CheckpointSchedule(epochs=0, minutes=2)
    clock.now += 119
    assert not schedule.due() and not schedule.due_at_end(1)
    clock.now += 1
    assert schedule.due() and schedule.due_at_end(1)
    schedule.saved(clock.now)
    assert not schedule.due()
    clock.now += 120
    assert schedule.due()


def test_a_checkpoint_is_due_after_so_many_epochs(clock: Clock) -> None:
    schedule = CheckpointSchedule(epochs=3, minutes=0)
    clock.now += 1e9
    assert [schedule.due_at_end(epoch) for epoch in range(1, 7)] == [False, False, True, False, False, True]
    assert not schedule.due()


def test_by_default_saving_costs_at_most_a_hundredth(clock: Clock) -> None:
    schedule = CheckpointSchedule(epochs=None, minutes=0)
    clock.now += 1.9
    assert not schedule.due_at_end(1)  # a training this short is rather repeated
    clock.now += 0.1
    assert schedule.due_at_end(2)
    clock.now += 0.5
    schedule.saved(clock.now - 0.5)
    clock.now += 49
    assert not schedule.due_at_end(3)
    clock.now += 1
    assert schedule.due_at_end(4)
