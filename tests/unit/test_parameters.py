"""Parameters bound to the signature of a class."""

from __future__ import annotations

import pytest
import torch

from schemas.errors import InvalidRow
from schemas.parameters import TRAINER_GIVEN, TRAINER_OFFERED, arguments, bind, signature_of
from trainers.contract import OPTIONAL_INIT_PARAMS, TRAINER_INIT_PARAMS


class Model:
    run_params = frozenset({"verbose"})

    def __init__(
        self, input_shape, output_shape, width, *, depth=2, sizes=(1, 2), loss=torch.nn.functional.relu, verbose=0
    ):
        pass


SIGNATURE = signature_of(Model, "model")


def test_what_the_pipeline_gives_is_not_for_a_row_to_set():
    assert set(SIGNATURE.defaults) == {"width", "depth", "sizes", "loss", "verbose"}
    with pytest.raises(InvalidRow, match="unknown parameter 'input_shape'"):
        bind(SIGNATURE, {"width": 1, "input_shape": [3]}, "model_class_params")


def test_defaults_are_recorded_and_left_out_of_what_is_hashed():
    bound = bind(SIGNATURE, {"width": 8, "depth": 2, "sizes": [1, 2]}, "model_class_params")
    assert bound.complete == {"width": 8, "depth": 2, "sizes": [1, 2]}
    assert bound.sparse == {"width": 8}


def test_a_default_of_another_type_is_another_value():
    assert bind(SIGNATURE, {"width": 8, "depth": 2.0}, "p").sparse == {"width": 8, "depth": 2.0}


def test_run_parameters_are_kept_apart():
    bound = bind(SIGNATURE, {"width": 8, "verbose": 3}, "p")
    assert bound.run == {"verbose": 3}
    assert "verbose" not in bound.complete
    assert "verbose" not in bound.sparse


def test_a_misspelt_parameter_names_the_likely_one():
    with pytest.raises(InvalidRow, match=r"p has the unknown parameter 'dept'.*did you mean depth\?"):
        bind(SIGNATURE, {"width": 8, "dept": 3}, "p")


def test_a_missing_parameter_is_named_unless_something_else_may_give_it():
    with pytest.raises(InvalidRow, match=r"p lacks width, which .*Model requires"):
        bind(SIGNATURE, {}, "p")
    assert bind(SIGNATURE, {}, "p", lenient=("*",)).sparse == {}


def test_the_callers_dict_is_not_changed():
    given = {"width": 8, "verbose": 1, "sizes": (1, 2)}
    bind(SIGNATURE, given, "p")
    assert given == {"width": 8, "verbose": 1, "sizes": (1, 2)}


def test_parameters_must_be_a_dict():
    with pytest.raises(InvalidRow, match="p must be a dict of parameters, not list"):
        bind(SIGNATURE, ["width"], "p")


def test_tuples_are_handed_on_as_tuples():
    assert arguments(SIGNATURE, {"sizes": [1, 2], "width": [1]}, {})[0] == {"sizes": (1, 2), "width": [1]}


def test_a_lost_parameter_is_left_out_if_it_was_at_its_default_and_refused_if_it_was_set():
    assert arguments(SIGNATURE, {"width": 1, "gone": 5}, {"width": 1}) == ({"width": 1}, ["gone"])
    with pytest.raises(InvalidRow, match="no longer takes the parameter 'gone' that this row sets"):
        arguments(SIGNATURE, {"width": 1, "gone": 5}, {"width": 1, "gone": 5})


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_torch_optimizers_bind(optimizer):
    signature = signature_of(optimizer, "optimizer")
    assert "params" not in signature.defaults
    assert bind(signature, {"lr": 0.5}, "p").sparse == {"lr": 0.5}


def test_what_a_trainer_is_given_is_said_alike_by_tables_and_trainers():
    assert set(TRAINER_INIT_PARAMS) == TRAINER_GIVEN
    assert set(OPTIONAL_INIT_PARAMS) == TRAINER_OFFERED
