"""Whatever is asked for and wherever it is interrupted, a resumed training ends as one that was never interrupted."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as draw

from tests.resumable_training import Kept, StopAfter, build, digest
from trainers.contract import Stopped

SCHEDULES: list[dict[str, Any]] = [
    {},
    {"scheduler_class_name": "StepLR", "scheduler_class_params": {"step_size": 2}, "scheduler_steps": "batch"},
    {"scheduler_class_name": "CosineAnnealingLR", "scheduler_class_params": {"T_max": 4}},
    {"scheduler_class_name": "ReduceLROnPlateau", "scheduler_class_params": {"patience": 0, "threshold": 0.5}},
]
AVERAGES: list[dict[str, Any]] = [{}, {"ema_decay": 0.8}, {"swa_from_epoch": 2}]
VALIDATIONS: list[dict[str, Any]] = [{}, {"validation_epochs": 2}, {"validation_steps": 3}, {"validation_steps": 7}]
STOPPINGS: list[dict[str, Any]] = [
    {},
    {"early_stopping_patience": 1, "early_stopping_metric": "balanced_accuracy"},
    {"training_strip_length": 2, "successive_validation_score_decline_tolerance": 1},
    {"training_strip_length": 2, "early_stopping_quotient": 1.0},
]
METRICS = ["accuracy", "balanced_accuracy", "macro_f1"]


@draw.composite
def options(choose: draw.DrawFn) -> dict[str, Any]:
    """A combination of options that go together."""
    chosen = {
        **choose(draw.sampled_from(SCHEDULES)),
        **choose(draw.sampled_from(AVERAGES)),
        **choose(draw.sampled_from(VALIDATIONS)),
        **choose(draw.sampled_from(STOPPINGS)),
        "metrics": METRICS,
        "selection": choose(draw.sampled_from(["loss", "macro_f1"])),
        "precision": choose(draw.sampled_from(["fp32", "bf16", "fp16"])),
        "gradient_accumulation": choose(draw.sampled_from([1, 3])),
        "gradient_clip_norm": choose(draw.sampled_from([None, 0.1])),
        "warmup_steps": choose(draw.sampled_from([0, 12])),
        "frozen": choose(draw.sampled_from([[], ["convolution", "norm"]])),
        "channels_last": choose(draw.booleans()),
        "deterministic": choose(draw.booleans()),
        "sampler": choose(draw.sampled_from(["shuffled", "weighted", "own generator"])),
        "optimizer": choose(draw.sampled_from(["Adam", "SGD", "RMSprop"])),
        "max_epoch": 4,
    }
    if "validation_steps" in chosen:
        for name in ("swa_from_epoch", "early_stopping_quotient"):
            chosen.pop(name, None)
    return chosen


AT_THE_END_OF_AN_EPOCH: list[tuple[dict[str, Any], int]] = [
    ({"scheduler_class_name": "CosineAnnealingLR", "scheduler_class_params": {"T_max": 4}}, 9),
    ({"validation_steps": 7, "precision": "fp16", "gradient_accumulation": 3}, 29),
]
"""Options, and after how many looks at the stop signal the last batch of an epoch is learned and nothing else done."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.feature("S13")
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chosen=options(), asked=draw.lists(draw.integers(0, 40), min_size=1, max_size=3))
def test_a_resumed_training_equals_an_uninterrupted_one(chosen: dict[str, Any], asked: list[int]) -> None:
    check(chosen, asked)


@pytest.mark.parametrize(("chosen", "asked"), AT_THE_END_OF_AN_EPOCH)
def test_one_that_was_interrupted_after_the_last_batch_of_an_epoch_does_too(chosen: dict[str, Any], asked: int) -> None:
    check({**chosen, "metrics": METRICS, "max_epoch": 4, "optimizer": "Adam"}, [asked])


def check(chosen: dict[str, Any], asked: list[int]) -> None:
    """Train without and with interruptions, after so many looks at the stop signal each, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        with ExitStack() as resources:
            trainer = build(Path(folder), resources, **chosen)
            trainer.train()
        expected, kept = digest(trainer), Kept()
        for number, times in enumerate([*asked, None]):
            torch.manual_seed(number)  # what another process would have drawn before must not matter
            random.seed(number)
            np.random.seed(number)
            stop = None if times is None else StopAfter(times)
            with ExitStack() as resources:
                trainer = build(Path(folder), resources, checkpoints=kept, stop=stop, checkpoint_epochs=0, **chosen)
                try:
                    trainer.train()
                except Stopped:
                    continue
            break
        assert digest(trainer) == expected
