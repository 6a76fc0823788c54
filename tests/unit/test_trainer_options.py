"""What a row may set: said once, checked without building anything, and documented."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from schemas.parameters import TRAINER_OFFERED, signature_of
from trainers.contract import OPTIONAL_INIT_PARAMS, TrainerError
from trainers.metrics import METRICS
from trainers.nn_trainer import NNTrainer
from trainers.trainer_options import TrainerOptions

DOCUMENT = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \| (`[^`]*`|max|min) \| (.+) \|$", re.MULTILINE)


def test_every_option_is_documented_with_its_default() -> None:
    documented = {names.strip("`"): default.strip("`") for names, default, _ in ROW.findall(DOCUMENT)}
    options = TrainerOptions()
    defaults = {field.name: json.dumps(getattr(options, field.name)) for field in fields(TrainerOptions)}
    assert {name: default for name, default in documented.items() if default not in ("max", "min")} == defaults


def test_every_metric_is_documented_with_its_direction() -> None:
    rows = [(names, best) for names, best, _ in ROW.findall(DOCUMENT) if best in ("max", "min")]
    documented = {name: best for names, best in rows for name in re.findall(r"\w+", names)}
    assert documented == {name: metric.direction for name, metric in METRICS.items()}


def test_rows_see_every_option_and_nothing_else() -> None:
    signature = signature_of(NNTrainer, "trainer")
    assert signature.defaults.keys() == {field.name for field in fields(TrainerOptions)}
    assert not signature.open
    assert set(OPTIONAL_INIT_PARAMS) == TRAINER_OFFERED


def test_a_subclass_is_open_for_what_it_hands_on() -> None:
    class Own(NNTrainer):
        def __init__(self, *, mine: int = 1, **given: object) -> None:
            super().__init__(**given)
            self.mine = mine

    signature = signature_of(Own, "trainer")
    assert signature.defaults == {"mine": 1}
    assert signature.open


def test_an_option_that_there_is_not_is_no_parameter() -> None:
    with pytest.raises(TypeError, match="learning_rate"):
        TrainerOptions(learning_rate=3)  # type: ignore[call-arg]
    with pytest.raises(TrainerError, match="validation_epochs is 0"):
        NNTrainer.validate_params(validation_epochs=0)
