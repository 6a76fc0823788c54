"""The file of a prediction, the arrays that are predicted, and files that people bring."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from datasets_impl.arrays import ArrayDataset
from datasets_impl.contract import DatasetError
from pipeline import dataset_store
from pipeline.prediction_data import UnsuitableData, checked_shape, opened_file
from pipeline.prediction_file import PredictionWriter, UnsuitableOutputs, UnusableOutput, export
from pipeline.prediction_pass import said_if_unsuitable

OUTPUTS = torch.arange(24, dtype=torch.float32).reshape(6, 2, 2)
TARGETS = torch.arange(6)


def written(outputs: Any, targets: Any, *lengths: int, count: int | None = None) -> io.BytesIO:
    """A file of outputs and targets that came in batches of these lengths."""

    def part(structure: Any, start: int, end: int) -> Any:
        if isinstance(structure, dict):
            return {name: part(value, start, end) for name, value in structure.items()}
        if isinstance(structure, list):
            return [part(value, start, end) for value in structure]
        return None if structure is None else structure[start:end]

    file, start = io.BytesIO(), 0
    with PredictionWriter(file, sum(lengths) if count is None else count) as writer:
        for length in lengths:
            writer.append(part(outputs, start, start + length), part(targets, start, start + length))
            start += length
        writer.finish()
    file.seek(0)
    return file


def read(file: io.BytesIO, folder: Path) -> Any:
    path = folder / "read.h5"
    path.write_bytes(file.getvalue())
    return dataset_store.read(path)


def test_what_was_written_in_batches_is_read_as_one(tmp_path: Path) -> None:
    outputs = {"left": [OUTPUTS, OUTPUTS.to(torch.bfloat16)], "right": OUTPUTS[:, 0, 0] > 3}
    found = read(written(outputs, TARGETS, 4, 2), tmp_path)
    assert found.keys() == {"outputs", "targets"}
    np.testing.assert_array_equal(found["outputs"]["left"][0], OUTPUTS.numpy())
    assert found["outputs"]["left"][1].dtype == np.float32
    np.testing.assert_array_equal(found["outputs"]["right"], outputs["right"].numpy())
    np.testing.assert_array_equal(found["targets"], TARGETS.numpy())
    with h5py.File(tmp_path / "read.h5") as file:
        np.testing.assert_array_equal(file["outputs.left.0"], OUTPUTS.numpy())


def test_the_bytes_do_not_depend_on_the_batches() -> None:
    assert written(OUTPUTS, TARGETS, 6).getvalue() == written(OUTPUTS, TARGETS, 1, 3, 2).getvalue()
    assert written(OUTPUTS, TARGETS, 6).getvalue() != written(OUTPUTS + 1, TARGETS, 6).getvalue()


@pytest.mark.parametrize(
    ("outputs", "targets", "lengths", "count", "message"),
    [
        (OUTPUTS, None, (4, 2), 7, "gives 6 outputs for 7 examples"),
        (OUTPUTS, None, (4, 2), 5, "gives 6 outputs for 5 examples"),
        (OUTPUTS, TARGETS[:3], (6,), None, "each needs a row per example"),
        ([OUTPUTS, torch.tensor([1.0])], None, (6,), None, "each needs a row per example"),
    ],
)
def test_outputs_that_are_not_one_per_example_are_refused(
    outputs: Any, targets: Any, lengths: tuple[int, ...], count: int | None, message: str
) -> None:
    with pytest.raises(UnsuitableOutputs, match=message):
        written(outputs, targets, *lengths, count=count)


def test_outputs_without_a_row_or_of_changing_form_are_refused() -> None:
    with PredictionWriter(io.BytesIO(), 6) as writer:
        with pytest.raises(UnsuitableOutputs, match="each needs a row per example"):
            writer.append(torch.tensor(1.0), None)
        writer.append(OUTPUTS[:2], None)
        with pytest.raises(UnsuitableOutputs, match="change their form after 2 examples"):
            writer.append(OUTPUTS[2:4].double(), None)


def test_a_prediction_is_given_out_in_each_format(tmp_path: Path) -> None:
    file = written({"a": OUTPUTS}, TARGETS, 6)
    for suffix in (".h5", ".npz", ".csv"):
        export(file, tmp_path / f"out{suffix}", force=False)
    assert (tmp_path / "out.h5").read_bytes() == file.getvalue()
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["outputs.a"], OUTPUTS.numpy())
        np.testing.assert_array_equal(arrays["targets"], TARGETS.numpy())
    header, *rows = csv.reader((tmp_path / "out.csv").read_text().splitlines())
    places = ["outputs.a[0,0]", "outputs.a[0,1]", "outputs.a[1,0]", "outputs.a[1,1]"]
    assert header == ["example", *places, "targets"]
    assert rows[5] == ["5", "20.0", "21.0", "22.0", "23.0", "5"]
    assert len(rows) == 6


def test_an_output_that_exists_is_replaced_only_if_told_to(tmp_path: Path) -> None:
    file, path = written(OUTPUTS, None, 6), tmp_path / "out.csv"
    path.write_text("mine")
    for wrong, message in (
        (path, "exists; choose another name"),
        (tmp_path / "out.txt", "let it end in .h5, .npz, .csv"),
        (tmp_path / "none" / "out.h5", "does not exist; make it first"),
    ):
        with pytest.raises(UnusableOutput, match=message):
            export(file, wrong, force=False)
    assert path.read_text() == "mine"
    export(file, path, force=True)
    assert path.read_text().startswith("example,")


def test_an_output_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("mine")
    with pytest.raises(dataset_store.UnsuitableDataset):
        export(io.BytesIO(b"no HDF5 at all"), path, force=True)
    assert [found.name for found in tmp_path.iterdir()] == ["out.csv"]
    assert path.read_text() == "mine"


def test_arrays_are_examples_of_the_model_s_numbers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.arange(12, dtype=">f8").reshape(4, 3)
    with h5py.File(tmp_path / "x.h5") as file:
        dataset = ArrayDataset({"a": file["x"], "b": np.arange(4, dtype=np.uint8)}, np.arange(4) % 2 == 1)
        inputs, targets = dataset.__getitems__([1, 2])
        assert (inputs["a"].dtype, inputs["b"].dtype, targets.dtype) == (torch.float32, torch.uint8, torch.int64)
        assert inputs["a"].tolist() == [[3, 4, 5], [6, 7, 8]]
        picked, _ = dataset.__getitems__([3, 0])
        assert picked["b"].tolist() == [3, 0]
        example, target = dataset[-1]
        assert (example["a"].tolist(), target.item()) == ([9, 10, 11], 1)
        assert isinstance(ArrayDataset(file["x"])[0], torch.Tensor)
        with pytest.raises(IndexError):
            dataset[4]


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (np.zeros((3, 2)), np.zeros(4), r"inputs: 3, targets: 4"),
        (np.array(["a", "b"]), None, "inputs has dtype <U1"),
        (np.zeros((0, 2)), None, "hold no example"),
        (np.float64(3.0), None, "is a single value"),
        ({"a": 3}, None, "inputs.a is a int, not an array"),
        ({}, np.zeros(3), "no array of inputs"),
    ],
)
def test_arrays_that_are_no_examples_are_refused(inputs: Any, targets: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        ArrayDataset(inputs, targets)


def files(folder: Path) -> dict[str, Path]:
    """A file of each form, all with the same inputs."""
    inputs, targets = np.zeros((3, 4)), np.arange(3)
    np.save(folder / "a.npy", inputs)
    np.savez(folder / "one.npz", anything=inputs)
    np.savez(folder / "both.npz", inputs=inputs, targets=targets, more=targets)
    with h5py.File(folder / "root.h5", "w") as file:
        file["inputs"] = inputs
    with h5py.File(folder / "tiers.h5", "w") as file:
        file["validation/inputs"], file["validation/targets"] = inputs, targets
    dataset_store.write(folder / "stored.h5", {"inputs": inputs, "targets": targets})
    dataset_store.write(folder / "bare.hdf5", inputs)
    return {path.name: path for path in folder.iterdir()}


def test_files_of_arrays_are_read_by_their_form(tmp_path: Path) -> None:
    with_targets = set()
    for name, path in files(tmp_path).items():
        with opened_file(path, "validation") as arrays:
            assert checked_shape(arrays, name) == [4]
            with_targets |= {name} if "targets" in arrays else set()
    assert with_targets == {"both.npz", "tiers.h5", "stored.h5"}


def test_files_that_hold_no_inputs_are_refused(tmp_path: Path) -> None:
    found = files(tmp_path)
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 damaged")
    (tmp_path / "empty.npy").write_bytes(b"")
    for path, message in (
        (found["tiers.h5"], "no array inputs, at its root or in the group test; it holds validation"),
        (tmp_path / "two.npz", "holds a, b; give it an array named inputs"),
        (tmp_path / "object.npy", "cannot be read as a file of arrays"),
        (tmp_path / "damaged.npz", "cannot be read as a file of arrays"),
        (tmp_path / "empty.npy", "cannot be read as a file of arrays"),
        (tmp_path / "none.h5", "there is no file .*none.h5; correct its name"),
        (tmp_path / "none.npy", "there is no file .*none.npy; correct its name"),
        (tmp_path / "a.txt", "give one that ends in .npy"),
    ):
        with pytest.raises(UnsuitableData, match=message), opened_file(path, "test"):
            pass


def test_a_batch_that_the_device_has_no_memory_for_is_not_a_wrong_dtype() -> None:
    with (
        pytest.raises(UnsuitableOutputs, match=r"a\.npy: .* memory for a batch .* smaller --batch-size") as caught,
        said_if_unsuitable(torch.nn.Linear(2, 1), [2], "a.npy"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    assert "dtype" not in str(caught.value)
