"""Which devices the ranks of a training get, and how a rank's failure is told."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline import gpu_locks, rank_devices
from pipeline.data_parallel import DataParallelTrainer, devices_of
from pipeline.errors import ConfigurationError
from pipeline.gpu_locks import Gpu, NoGpuFree
from pipeline.rank_failure import RankFailed, RankLacks, ended
from pipeline.rank_process import _lost_another
from pipeline.retry import blame_for
from schemas.attempt import Blame

pytestmark = pytest.mark.feature("B9")

GPUS = tuple(Gpu(name, f"GPU-{name}") for name in ("one", "two", "three"))


def own(device: str, uuid: str | None = None) -> Any:
    """What stands for the device of a session."""
    return SimpleNamespace(device=torch.device(device), uuid=uuid)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the GPUs that are locked meanwhile."""
    names: list[str] = []

    @contextmanager
    def lock(gpus: Sequence[Gpu], least: int | None = None) -> Iterator[Gpu]:
        names.append(gpus[0].visible)
        try:
            yield gpus[0]
        finally:
            names.remove(gpus[0].visible)

    monkeypatch.setattr(gpu_locks, "held", lock)
    return names


def test_ranks_share_the_cpu(held: list[str]) -> None:
    with rank_devices.taken(own("cpu"), 5, GPUS) as names:
        assert names == {}
    assert held == []


def test_each_rank_has_a_gpu_of_its_own(held: list[str]) -> None:
    with rank_devices.taken(own("cuda", "GPU-two"), 3, GPUS) as names:
        assert names == {0: "GPU-two", 1: "GPU-one", 2: "GPU-three"}
        assert held == ["GPU-one", "GPU-three"]
    assert held == []


@pytest.mark.parametrize(
    ("device", "there", "said"),
    [
        (own("cuda", "GPU-one"), GPUS, "asks for 4 devices, and this worker may use 3 GPUs"),
        (own("cuda", "GPU-one"), GPUS[:1], "this worker may use 1 GPU;"),
        (own("cuda", "MIG-a"), [Gpu("MIG-a", "MIG-a"), Gpu("MIG-b", "MIG-b")], "may use 1 GPU;"),
        (own("meta"), (), "may use the device meta;"),
    ],
)
def test_too_few_devices_are_what_a_worker_lacks(held: list[str], device: Any, there: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused, rank_devices.taken(device, 4, there):
        pass
    assert blame_for(refused.value) is Blame.WORKER
    assert held == []


def test_gpus_that_others_have_are_given_back(held: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lock = gpu_locks.held

    def once(gpus: Sequence[Gpu], **rest: Any) -> Any:
        if held:
            raise NoGpuFree("other workers have them")
        return lock(gpus, **rest)

    monkeypatch.setattr(gpu_locks, "held", once)
    with pytest.raises(NoGpuFree), rank_devices.taken(own("cuda", "GPU-one"), 3, GPUS):
        pass
    assert held == []


@pytest.mark.parametrize(
    ("exit_code", "said"),
    [
        (3, "rank 1 of 2 ended with exit code 3"),
        (-signal.SIGSEGV, "rank 1 of 2 was ended by SIGSEGV"),
        (-signal.SIGKILL, "rank 1 of 2 was ended by SIGKILL; where nobody sent it, the machine ran out of memory"),
    ],
)
def test_a_rank_that_said_nothing_is_told_by_its_end(exit_code: int, said: str) -> None:
    assert str(ended(1, 2, exit_code)) == said


def failing(failures: list[tuple[int, dict[str, Any]]], first: tuple[int, int] | None) -> DataParallelTrainer:
    trainer = DataParallelTrainer(None, 2, {})  # type: ignore[arg-type]
    trainer._failures.extend(failures)
    trainer._raise_failure(SimpleNamespace(failure=lambda: first, error=None))  # type: ignore[arg-type]


LOST = {"message": "RuntimeError: Connection closed by peer", "lacks": False, "lost": True}
OWN = {"message": "ValueError: no", "lacks": False, "lost": False}
FULL = {"message": "OSError: disk full", "lacks": True, "lost": False}


@pytest.mark.parametrize(
    ("failures", "first", "kind", "said"),
    [
        ([(0, LOST)], (1, -9), RankFailed, "rank 1 of 2 was ended by SIGKILL"),
        ([(0, LOST), (1, OWN)], (0, 1), RankFailed, "rank 1 of 2: ValueError: no"),
        ([(1, FULL)], (1, 1), RankLacks, "rank 1 of 2: OSError: disk full"),
        ([(0, LOST)], (0, 1), RankFailed, "rank 0 of 2: RuntimeError: Connection closed"),
        ([], (1, 4), RankFailed, "rank 1 of 2 ended with exit code 4"),
        ([], None, RankFailed, "the 2 processes of the training could not be started"),
    ],
)
def test_the_failure_that_is_told_is_the_one_that_came_first(
    failures: Any, first: Any, kind: type[RankFailed], said: str
) -> None:
    with pytest.raises(kind, match=said) as raised:
        failing(failures, first)
    assert blame_for(raised.value) is (Blame.WORKER if kind is RankLacks else Blame.TASK)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True),
        (torch.distributed.DistBackendError("NCCL error in …"), True),
        (RuntimeError("the size of tensor a must match"), False),
        (OSError(errno.ENOSPC, "full"), False),
    ],
)
def test_who_lost_another_is_known(error: Exception, lost: bool) -> None:
    assert _lost_another(error) is lost


@pytest.mark.parametrize(
    ("trains_on_devices", "params", "devices"), [(True, {"devices": 3}, 3), (True, {}, 1), (False, {"devices": 3}, 1)]
)
def test_only_trainers_that_say_so_are_trained_on_several_devices(
    trains_on_devices: bool, params: dict[str, Any], devices: int
) -> None:
    cls = type("Own", (), {"trains_on_devices": trains_on_devices})
    assert devices_of(SimpleNamespace(trainer=SimpleNamespace(cls=cls, params=params))) == devices  # type: ignore[arg-type]
