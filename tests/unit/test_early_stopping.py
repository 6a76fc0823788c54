"""Early stopping against cases computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from trainers.contract import TrainerError
from trainers.early_stopping import EarlyStopping

FALLING = [3.0, 2.0, 1.0, 0.5, 0.25, 0.1]


def ends_after(losses: list[float], training: list[float] | None = None, **params: Any) -> int | None:
    """After how many epochs with these validation losses the training ends; None if it does not."""
    stopping = EarlyStopping(**params)
    for done in range(1, len(losses) + 1):
        seen = losses[:done]
        reason = stopping.reason(
            best=seen.index(min(seen)),
            scores=seen,
            direction="min",
            training_losses=(training or FALLING * 9)[:done],
            validation_losses=seen,
        )
        if reason is not None:
            return done
    return None


@pytest.mark.parametrize("shift", [0.0, -2.0, -10.0], ids=["positive", "around zero", "negative"])
@pytest.mark.feature("S13")
def test_patience(shift: float) -> None:
    losses = [loss + shift for loss in [3.0, 2.0, 2.5, 2.1, 1.9, 1.95, 1.9, 2.0]]
    assert ends_after(losses) is None
    assert ends_after(losses, early_stopping_patience=2) == 4
    assert ends_after(losses, early_stopping_patience=3) == 8
    assert ends_after(losses, early_stopping_patience=4) is None


@pytest.mark.parametrize("shift", [0.0, -2.0, -10.0], ids=["positive", "around zero", "negative"])
@pytest.mark.feature("S13")
def test_successive_declines_are_counted_between_the_ends_of_strips(shift: float) -> None:
    ends = [2.0, 1.0, 1.5, 1.2, 1.3, 1.4, 1.5]  # worse than before: the third, fifth, sixth and seventh
    losses = [loss + shift for end in ends for loss in (9.0, end)]
    tolerated = {
        tolerance: ends_after(losses, training_strip_length=2, successive_validation_score_decline_tolerance=tolerance)
        for tolerance in (1, 2, 3, 4)
    }
    assert tolerated == {1: 6, 2: 12, 3: 14, 4: None}


def test_the_first_strip_declines_from_nothing() -> None:
    params = {"training_strip_length": 3, "successive_validation_score_decline_tolerance": 1}
    assert ends_after([1.0, 2.0, 3.0], **params) is None
    assert ends_after([1.0, 2.0, 3.0, 3.0, 3.0, 3.1], **params) == 6


def test_a_score_of_which_more_is_better() -> None:
    stopping = EarlyStopping(training_strip_length=1, successive_validation_score_decline_tolerance=2)
    given = {"best": 1, "direction": "max", "training_losses": [], "validation_losses": []}
    assert stopping.reason(scores=[0.5, 0.9, 0.8], **given) is None
    assert "declined in 2 successive strips of 1" in str(stopping.reason(scores=[0.5, 0.9, 0.8, 0.7], **given))


@pytest.mark.feature("S13")
def test_the_quotient_is_prechelts_for_positive_losses() -> None:
    # GL = 100 (1.1 / 1.0 - 1) = 10, P = 1000 (1.25 / 1.0 - 1) = 250: PQ = 0.04
    validation, training = [1.0, 1.1], [1.5, 1.0]
    assert ends_after(validation, training, training_strip_length=2, early_stopping_quotient=0.039) == 2
    assert ends_after(validation, training, training_strip_length=2, early_stopping_quotient=0.041) is None


def test_the_quotient_for_losses_that_are_negative_or_zero() -> None:
    params = {"training_strip_length": 2, "early_stopping_quotient": 0.036}
    assert ends_after([-1.1, -1.0], [-0.5, -1.0], **params) == 2  # 100 * 0.1 / 1.1 by 1000 * 0.25 / 1.0: 0.0364
    assert ends_after([-1.0, -1.1], [-0.5, -1.0], **params) is None  # nothing was lost
    assert ends_after([0.0, 0.0], [0.0, 0.0], **params) is None
    assert ends_after([0.0, 0.1], [1.0, 0.5], **params) == 2  # infinitely worse than a perfect one
    assert ends_after([1.0, 1.1], [1.0, 1.0], **params) == 2  # no progress any more


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"early_stopping_patience": -1}, "early_stopping_patience is -1"),
        ({"training_strip_length": 0}, "training_strip_length is 0"),
        ({"successive_validation_score_decline_tolerance": 1.0}, "decline_tolerance is 1.0"),
        ({"early_stopping_quotient": 0}, "early_stopping_quotient is 0"),
        ({"early_stopping_quotient": float("nan")}, "early_stopping_quotient is nan"),
        ({"early_stopping_quotient": 1, "training_strip_length": 1}, "strips of at least 2"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        EarlyStopping(**params)
