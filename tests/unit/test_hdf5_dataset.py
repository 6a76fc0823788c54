"""HDF5 data files: what is written, what is read back, and what is said about unusable ones."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from datasets_impl.contract import DatasetError, ExampleIndexError, PipelineDataset, file_path
from datasets_impl.hdf5 import HDF5Dataset
from datasets_impl.hdf5_writer import write_tiers

ROW = {"dataset_file_name": "data.h5"}
ON_DISK = 0  # a memory budget that nothing fits
IN_MEMORY = 1 << 20


def arrays(length: int = 12) -> dict[str, np.ndarray]:
    generator = np.random.RandomState(length)
    return {
        "inputs": generator.standard_normal((length, 3)),
        "targets": (np.arange(length) % 4).astype(np.int32),
        "pixels": generator.randint(0, 256, (length, 2, 2)).astype(np.uint8),
        "weights": generator.random_sample(length).astype(np.float32),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiers(tmp_path / "data.h5", {"train": arrays(12), "validation": arrays(5)})
    return tmp_path


def dataset(folder: Path, tier: str = "train", **params: Any) -> HDF5Dataset:
    return HDF5Dataset(ROW, folder, tier, **params)


@pytest.mark.feature("S10")
@pytest.mark.parametrize("budget", [ON_DISK, IN_MEMORY])
def test_batches_are_the_stored_examples_in_the_order_asked_for(folder: Path, budget: int) -> None:
    stored = arrays(12)
    data = dataset(folder, memory_budget=budget)
    for indices in ([7, 2, 2, 11, 0], [3, 4, 5], list(range(12))):
        for asked in (indices, torch.tensor(indices)):
            inputs, targets = data.__getitems__(asked)
            assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
            np.testing.assert_array_equal(inputs.numpy(), stored["inputs"][indices].astype(np.float32))
            np.testing.assert_array_equal(targets.numpy(), stored["targets"][indices])


@pytest.mark.feature("S10")
@pytest.mark.parametrize("budget", [ON_DISK, IN_MEMORY])
def test_an_example_is_a_row_of_its_batch(folder: Path, budget: int) -> None:
    data = dataset(folder, "validation", memory_budget=budget)
    inputs, targets = data.__getitems__(range(5))
    examples = list(data)
    assert len(examples) == len(data) == 5
    assert torch.equal(torch.stack([example[0] for example in examples]), inputs)
    assert torch.equal(torch.stack([example[1] for example in examples]), targets)


@pytest.mark.parametrize("budget", [ON_DISK, IN_MEMORY])
def test_changing_a_batch_in_place_changes_no_data(folder: Path, budget: int) -> None:
    data = dataset(folder, memory_budget=budget)
    before = data.__getitems__([0, 1, 2])[0].clone()
    data.__getitems__([0, 1, 2])[0].zero_()
    data[1][0].zero_()
    assert torch.equal(data.__getitems__([0, 1, 2])[0], before)


@pytest.mark.feature("S21")
@pytest.mark.parametrize("budget", [ON_DISK, IN_MEMORY])
def test_several_names_give_a_tuple_and_a_mapping_gives_a_dict(folder: Path, budget: int) -> None:
    data = dataset(
        folder, inputs=["pixels", "inputs"], targets={"label": "targets", "size": "weights"}, memory_budget=budget
    )
    inputs, targets = data.__getitems__([4, 1])
    assert isinstance(inputs, tuple)
    assert [tuple(tensor.shape) for tensor in inputs] == [(2, 2, 2), (2, 3)]
    assert {name: tensor.dtype for name, tensor in targets.items()} == {"label": torch.int64, "size": torch.float32}
    example_inputs, example_targets = data[4]
    assert torch.equal(example_inputs[0], inputs[0][0])
    assert torch.equal(example_targets["label"], targets["label"][0])


@pytest.mark.feature("S21")
def test_a_mapping_of_one_name_still_gives_a_dict(folder: Path) -> None:
    inputs, _ = dataset(folder, inputs={"image": "pixels"})[0]
    assert list(inputs) == ["image"]


@pytest.mark.parametrize("budget", [ON_DISK, IN_MEMORY])
def test_dtypes_follow_the_parameters(folder: Path, budget: int) -> None:
    def dtypes(**params: Any) -> tuple[torch.dtype, torch.dtype]:
        data = dataset(folder, inputs="pixels", targets="weights", memory_budget=budget, **params)
        inputs, targets = data.__getitems__([3])
        np.testing.assert_array_equal(inputs.numpy(), arrays(12)["pixels"][[3]])
        return inputs.dtype, targets.dtype

    assert dtypes() == (torch.float32, torch.float32)
    assert dtypes(float_dtype="float64") == (torch.float64, torch.float64)
    assert dtypes(input_dtype="uint8") == (torch.uint8, torch.float32)


def test_a_tier_larger_than_a_block_is_loaded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets_impl.hdf5.BLOCK_BYTES", 50)
    stored = arrays(301)
    write_tiers(tmp_path / "data.h5", {"train": stored})
    data = dataset(tmp_path, classes=4)
    np.testing.assert_array_equal(data.get_labels().numpy(), stored["targets"])
    inputs, targets = data.__getitems__(range(301))
    np.testing.assert_array_equal(inputs.numpy(), stored["inputs"].astype(np.float32))
    np.testing.assert_array_equal(targets.numpy(), stored["targets"])


def test_a_tier_in_memory_no_longer_needs_its_file_and_one_on_disk_does(folder: Path) -> None:
    kept, read = dataset(folder, memory_budget=IN_MEMORY), dataset(folder, memory_budget=ON_DISK)
    kept.preload()
    read.preload()
    (folder / "data.h5").unlink()
    assert kept.__getitems__([0])[0].shape == (1, 3)
    with pytest.raises(DatasetError, match=r"data\.h5 does not exist"):
        read.__getitems__([0])


def test_the_budget_counts_the_tensors_as_they_are_kept(folder: Path) -> None:
    bytes_kept = 12 * (3 * 4 + 8)  # three float32 and one int64 per example
    (folder / "exact.h5").write_bytes((folder / "data.h5").read_bytes())
    fits = HDF5Dataset({"dataset_file_name": "exact.h5"}, folder, "train", memory_budget=bytes_kept)
    exceeds = HDF5Dataset({"dataset_file_name": "exact.h5"}, folder, "train", memory_budget=bytes_kept - 1)
    fits.preload()
    exceeds.preload()
    (folder / "exact.h5").unlink()
    fits[0]
    with pytest.raises(DatasetError, match="does not exist"):
        exceeds[0]


@pytest.mark.parametrize("budget", [ON_DISK, IN_MEMORY])
def test_a_dataset_in_use_can_be_pickled(folder: Path, budget: int) -> None:
    data = dataset(folder, memory_budget=budget)
    first = data[3]
    again = pickle.loads(pickle.dumps(data))[3]
    assert torch.equal(again[0], first[0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_opens_the_file_for_itself(folder: Path, method: str) -> None:
    data = dataset(folder, memory_budget=ON_DISK)
    expected = data.__getitems__([1, 9])[0]  # the handle is open in the parent
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_rows, args=(data, sender))
    child.start()
    rows, handle_was_replaced = receiver.recv()
    child.join()
    np.testing.assert_array_equal(rows, expected.numpy())
    assert handle_was_replaced
    assert torch.equal(data.__getitems__([1, 9])[0], expected)


def _send_rows(data: HDF5Dataset, sender: Any) -> None:
    inherited = data._source._file
    rows = data.__getitems__([1, 9])[0].numpy()
    sender.send((rows, not inherited and data._source._file is not inherited))


@pytest.mark.feature("S10")
def test_the_contract_of_a_dataset(folder: Path) -> None:
    data = dataset(folder)
    assert isinstance(data, PipelineDataset)
    assert data.get_additional_model_params() == {}
    assert data.get_output_shape() is None
    assert dataset(folder, classes=4).get_output_shape() == (4,)
    assert file_path(ROW, folder) == folder / "data.h5"
    with pytest.raises(DatasetError, match="dataset_file_name"):
        file_path({}, folder)


def broken(folder: Path, write: Any, **params: Any) -> str:
    """Return what is said about the train tier of a file that `write` has filled."""
    with h5py.File(folder / "broken.h5", "w") as file:
        write(file)
    with pytest.raises(DatasetError) as caught:
        HDF5Dataset({"dataset_file_name": "broken.h5"}, folder, "train", **params)
    return str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"data file .*data\.h5 does not exist"):
        dataset(tmp_path)


@pytest.mark.parametrize("damage", [lambda whole: b"not hdf5", lambda whole: whole[:-100]])
def test_a_damaged_file_is_named(folder: Path, damage: Any) -> None:
    file = folder / "data.h5"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DatasetError, match=r"data\.h5 is not a whole, readable HDF5 file"):
        dataset(folder)


def test_a_damaged_block_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        inputs = file.create_dataset("train/inputs", data=np.ones((8, 4)), chunks=(8, 4), fletcher32=True)
        file["train/targets"] = np.zeros(8)
        offset = inputs.id.get_chunk_info(0).byte_offset
    with open(tmp_path / "data.h5", "r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff")
    with pytest.raises(DatasetError, match=r"'inputs' of tier 'train' of .* cannot be read"):
        dataset(tmp_path).preload()


def test_a_missing_tier_is_named_with_those_there_are(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"no tier 'test' \(it has train, validation\)"):
        dataset(folder, "test")
    with pytest.raises(DatasetError, match="'trian' is not a tier"):
        dataset(folder, "trian")


def test_a_missing_array_is_named_with_those_there_are(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"no array 'images' \(it has inputs, pixels, targets, weights\)"):
        dataset(folder, inputs=["images"])


def test_an_empty_tier_and_differing_lengths_are_errors(tmp_path: Path) -> None:
    def lengths(inputs: int, targets: int) -> Any:
        def write(file: h5py.File) -> None:
            file["train/inputs"], file["train/targets"] = np.zeros((inputs, 2)), np.zeros(targets)

        return write

    assert "tier 'train'" in broken(tmp_path, lengths(0, 0)) and "is empty" in broken(tmp_path, lengths(0, 0))
    assert "differ in length (inputs: 3, targets: 2)" in broken(tmp_path, lengths(3, 2))


def test_arrays_that_are_not_numbers_are_errors(tmp_path: Path) -> None:
    def write(file: h5py.File) -> None:
        file["train/inputs"], file["train/targets"] = np.zeros(1), np.array([b"cat"])

    assert "array 'targets'" in broken(tmp_path, write) and "dtype |S3" in broken(tmp_path, write)


@pytest.mark.parametrize("budget", [ON_DISK, IN_MEMORY])
def test_an_index_out_of_range_is_an_error_of_both_kinds(folder: Path, budget: int) -> None:
    data = dataset(folder, memory_budget=budget)
    for indices in ([0, 12], [-1], torch.tensor([99, 0])):
        with pytest.raises(ExampleIndexError, match="ask for 0 to 11"):
            data.__getitems__(indices)
    with pytest.raises(IndexError):
        data[12]


def test_labels_must_fit_the_number_of_classes(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"example 3 of tier 'train' .* has label 3, but classes=3 allows 0 to 2"):
        dataset(folder, classes=3)
    with pytest.raises(DatasetError, match="classes is True"):
        dataset(folder, classes=True)
    for targets in (["weights"], ["pixels"], ["targets", "targets"]):
        with pytest.raises(DatasetError, match="has no class labels"):
            dataset(folder, targets=targets, classes=4)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"inputs": []}, "inputs is"),
        ({"targets": {"label": 3}}, "targets is"),
        ({"float_dtype": "int64"}, "float_dtype is 'int64'"),
        ({"input_dtype": "text"}, "input_dtype is 'text'"),
    ],
)
def test_unsuitable_parameters_are_errors(folder: Path, params: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        dataset(folder, **params)


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    content = arrays(7)
    turned = dict(reversed(list(content.items())))
    write_tiers(tmp_path / "a.h5", {"train": content, "test": content}, {"b": 1, "a": "text"})
    write_tiers(tmp_path / "b.h5", {"test": turned, "train": turned}, {"a": "text", "b": 1})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    with h5py.File(tmp_path / "a.h5") as file:
        # Within one second times would not differ, so look for them.
        assert h5py.h5g.get_objinfo(file["train"].id, b"inputs").mtime == 0
        assert dict(file.attrs) == {"a": "text", "b": 1}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(folder: Path) -> None:
    before = (folder / "data.h5").read_bytes()
    with pytest.raises(TypeError):
        write_tiers(folder / "data.h5", {"train": arrays(3)}, {"unsuitable": object()})
    assert [path.name for path in folder.iterdir()] == ["data.h5"]
    assert (folder / "data.h5").read_bytes() == before


@pytest.mark.parametrize(
    ("tiers", "extra", "said"),
    [
        ({}, None, "would hold no tier"),
        ({"dev": {"inputs": np.zeros(2)}}, None, "'dev' is not a tier"),
        ({"train": {}}, None, "tier 'train' holds no array"),
        ({"train": {"inputs": np.zeros(2), "targets": np.zeros(3)}}, None, r"inputs: 2, targets: 3"),
        ({"train": {"inputs": np.zeros(())}}, None, "is a scalar"),
        ({"train": {"inputs": np.array(["a"])}}, None, "has dtype <U1"),
        ({"train": {"inputs": np.zeros(2)}}, {"train": {}}, "both a tier and an extra group"),
    ],
)
def test_unsuitable_content_is_not_written(tmp_path: Path, tiers: Any, extra: Any, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        write_tiers(tmp_path / "data.h5", tiers, extra=extra)
    with pytest.raises(DatasetError, match=r"folder .* does not exist"):
        write_tiers(tmp_path / "absent" / "data.h5", {"train": arrays(2)})
    assert not list(tmp_path.iterdir())
