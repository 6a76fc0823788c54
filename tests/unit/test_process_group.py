"""Two ranks with batches of 4 against one process with batches of 8: losses, metrics, weights, interruptions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets_impl.contract import DatasetError, share_of
from datasets_impl.loaders import build_loader
from tests import parallel_training
from tests.parallel_training import BATCH, EVERYTHING, PLAIN, RANKS, build, outcome
from trainers import numerics
from trainers.contract import TrainerError
from trainers.metrics import MetricSet

TOLERANCE = 1e-5
"""Relative difference that docs/data-parallel.md promises: sums of float32 are taken in another order."""
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.feature("B9")


def launch(folder: Path, ranks: int, *names: str) -> dict[str, list[dict[str, Any]]]:
    """What came out in each rank, by training; all ran in the same processes, which torchrun started."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [*command, parallel_training.__file__, str(folder), *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return {name: [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in range(ranks)] for name in names}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Every training in two ranks."""
    return launch(tmp_path_factory.mktemp("ranks"), RANKS, *parallel_training.RANKS_DO)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = numerics.record()
    numerics.settle(threads=1)
    yield
    numerics.pin(before)


@pytest.mark.parametrize(("name", "params"), [("plain", PLAIN), ("everything", EVERYTHING)])
def test_two_ranks_give_the_numbers_of_one_process_with_the_doubled_batch(
    ranks: dict[str, list[dict[str, Any]]], tmp_path: Path, one_thread: None, name: str, params: Any
) -> None:
    alone = build(tmp_path, batch=BATCH * RANKS, **params)
    alone.train()
    expected, found = outcome(alone), ranks[name][0]
    for part in ("training", "regularization", "validation", "test"):
        assert found[part] == expected[part] or _close(found[part], expected[part]), part
    assert found["best"] == expected["best"]
    for weight, values in expected["weights"].items():
        torch.testing.assert_close(
            torch.tensor(found["weights"][weight]), torch.tensor(values), rtol=TOLERANCE, atol=TOLERANCE
        )


def _close(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_close(found[name], expected[name]) for name in expected)
    return found == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("name", ["plain", "everything", "own_randomness", "interrupted"])
def test_all_ranks_end_with_the_same_bits(ranks: dict[str, list[dict[str, Any]]], name: str) -> None:
    first, second = ranks[name]
    assert first["digest"] == second["digest"]


def test_each_rank_reads_its_share_only(ranks: dict[str, list[dict[str, Any]]]) -> None:
    # 20 and two or one more in each of 4 epochs; with 41 examples one more, or one that does not count
    assert [rank["reads"] for rank in ranks["plain"]] == [88, 84]
    assert [rank["reads"] for rank in ranks["everything"]] == [84, 84]


def test_ranks_draw_different_noise(ranks: dict[str, list[dict[str, Any]]]) -> None:
    """Dropout with one mask for both halves of a batch would be another training."""
    first, second = ranks["own_randomness"]
    assert first["draw"] != second["draw"]


def test_an_interrupted_training_ends_with_the_bits_of_an_uninterrupted_one(
    ranks: dict[str, list[dict[str, Any]]],
) -> None:
    interrupted = ranks["interrupted"]
    assert interrupted[0]["saved"], "the first rank has the checkpoint"
    assert not interrupted[1]["saved"], "and nobody else"
    assert [rank["digest"] for rank in interrupted] == [rank["digest"] for rank in ranks["own_randomness"]]


def test_so_does_one_of_more_ranks_than_can_be_added_in_any_order(tmp_path: Path) -> None:
    found = launch(tmp_path, 4, "own_randomness", "interrupted")
    assert len({rank["digest"] for name in found for rank in found[name]}) == 1


def test_ranks_that_read_different_orders_are_refused(ranks: dict[str, list[dict[str, Any]]]) -> None:
    assert all("in different orders" in rank["error"] for rank in ranks["disordered"])


def test_a_checkpoint_of_another_number_of_devices_is_refused(ranks: dict[str, list[dict[str, Any]]]) -> None:
    for rank in ranks["another_number"]:
        of_one, of_three = rank["errors"]
        assert "a training on 1 devices, not 2" in of_one
        assert "devices is 3, but 2 processes were started" in of_three


def test_a_process_of_its_own_can_score_but_not_train(tmp_path: Path) -> None:
    trainer = build(tmp_path, batch=BATCH, devices=2)
    assert set(trainer.validate()) == {"loss", *parallel_training.METRICS}
    with pytest.raises(TrainerError, match="torchrun --nproc-per-node 2"):
        trainer.train()


@pytest.mark.parametrize("devices", [0, 1.5, True, "2"])
def test_devices_must_be_a_number(tmp_path: Path, devices: Any) -> None:
    with pytest.raises(TrainerError, match="devices is .*; it must be an integer of at least 1"):
        build(tmp_path, batch=BATCH, devices=devices)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["mse", "mae", "poisson_loss", "correlation", "explained_variance"], 0),
        (["accuracy", "balanced_accuracy", "macro_f1", "top5_accuracy"], 7),
    ],
)
def test_metrics_of_parts_are_those_of_the_whole(names: list[str], classes: int) -> None:
    generator = torch.Generator().manual_seed(4)
    output = torch.rand(30, classes or 3, generator=generator) + 5
    target = (
        torch.randint(classes, (30,), generator=generator) if classes else torch.rand(30, 3, generator=generator) + 5
    )
    whole = MetricSet(names)
    whole.update(output, target)
    parts = [MetricSet(names) for _ in range(3)]  # the last one has no examples at all
    for start, end, part in ((0, 7, parts[0]), (7, 23, parts[1]), (23, 30, parts[0])):
        part.update(output[start:end], target[start:end])
    joined = MetricSet.joined(names, [part.state() for part in parts])
    assert joined.compute() == pytest.approx(whole.compute(), rel=1e-12)


@pytest.mark.parametrize("total", [1, 2, 7, 8])
def test_shares_are_all_of_a_batch(total: int) -> None:
    places = [share_of(total, rank, 3) for rank in range(3)]
    assert [index for start, end in places for index in range(start, end)] == [*range(total)]
    sizes = [end - start for start, end in places]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_gives_the_parts_of_each_batch(num_workers: int) -> None:
    data = [(torch.tensor([float(index)]), torch.tensor(index)) for index in range(9)]
    loaders = [build_loader(data, tier="validation", batch_size=2, num_workers=num_workers) for _ in range(2)]
    found = []
    for rank, loader in enumerate(loaders):
        loader.split_between(rank, 2)
        assert len(loader) == 3
        found.append([(share.batch[1].tolist(), share.size, share.total) for share in loader])
        loader.close()
    assert found[0] == [([0, 1], 2, 4), ([4, 5], 2, 4), ([8], 1, 1)]
    assert found[1] == [([2, 3], 2, 4), ([6, 7], 2, 4), ([8], 0, 1)]


def test_a_tier_smaller_than_a_batch_of_all_ranks_is_refused() -> None:
    data = [(torch.zeros(1), torch.zeros(1))] * 5
    loader = build_loader(data, tier="train", batch_size=3)
    with pytest.raises(DatasetError, match="one batch of 3 for each of 2 devices"):
        loader.split_between(0, 2)
