"""Items with their ids and expected outputs, and how they are cut into minibatches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import Any, NamedTuple

from datasets_impl.errors import StreamingError


class StripAbsentValues:
    """Given as a default value, it says that absent values are left out instead of filled in."""


class DataContainer(NamedTuple):
    """Items, one place for each in every column.

    Attributes:
        ids: of the items, by default their numbers from 0; None where results are not aligned with the input. What was
            filled in has the id None.
        data_inputs: the items: a list, or what the last step returned for them.
        expected_outputs: a list, or None where there are none.
    """

    ids: Any = None
    data_inputs: Any = ()
    expected_outputs: Any = None


def minibatches(
    data: DataContainer,
    batch_size: int,
    keep_incomplete_batch: bool,
    default_value_data_inputs: Any,
    default_value_expected_outputs: Any,
) -> Iterator[DataContainer]:
    """Cut columns, any iterables, into minibatches of lists, reading only as far as it is asked.

    Args:
        data: its ids are numbers from 0 where they are None.
        batch_size: items of each, at least 1.
        keep_incomplete_batch: whether a short last one is given.
        default_value_data_inputs: fills a short last one up, and stands for inputs that are missing beside expected
            outputs; with `StripAbsentValues` nothing is filled in.
        default_value_expected_outputs: likewise.

    Raises:
        StreamingError: one column is shorter than another and nothing fills it up.
    """
    ids = iter(count() if data.ids is None else data.ids)
    inputs = iter(data.data_inputs)
    outputs = None if data.expected_outputs is None else iter(data.expected_outputs)
    given = 0
    while True:
        some_inputs = list(islice(inputs, batch_size))
        some_outputs = None if outputs is None else list(islice(outputs, batch_size))
        length = max(len(some_inputs), len(some_outputs or ()))
        if not length:
            return
        some_ids = list(islice(ids, length))
        if len(some_ids) < length:
            raise StreamingError(f"there are {given + len(some_ids)} ids and more items: give an id for each item.")
        _fill(some_inputs, length, default_value_data_inputs, "data inputs", given)
        if some_outputs is not None:
            _fill(some_outputs, length, default_value_expected_outputs, "expected outputs", given)
        given += length
        if length == batch_size:
            yield DataContainer(some_ids, some_inputs, some_outputs)
            continue
        if keep_incomplete_batch:
            yield _padded(
                DataContainer(some_ids, some_inputs, some_outputs),
                batch_size,
                default_value_data_inputs,
                default_value_expected_outputs,
            )
        return


def _fill(column: list[Any], length: int, default: Any, name: str, before: int) -> None:
    """Append the default for what another column has more."""
    missing = length - len(column)
    if missing and isinstance(default, StripAbsentValues):
        raise StreamingError(
            f"there are {before + len(column)} {name}, fewer than there are in the other column: give as many, or a "
            f"default_value_{name.replace(' ', '_')}."
        )
    column += [default] * missing


def _padded(short: DataContainer, batch_size: int, default_input: Any, default_output: Any) -> DataContainer:
    """A short last minibatch, each column filled up unless its default says to strip."""
    missing = batch_size - len(short.ids)
    ids, inputs, outputs = short
    if not isinstance(default_input, StripAbsentValues):
        ids = [*ids, *[None] * missing]
        inputs = [*inputs, *[default_input] * missing]
    if outputs is not None and not isinstance(default_output, StripAbsentValues):
        outputs = [*outputs, *[default_output] * missing]
    return DataContainer(ids, inputs, outputs)
