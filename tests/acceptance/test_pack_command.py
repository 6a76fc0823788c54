"""`trainloom data pack` from the command line to a trained model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets_impl import packed_manifest
from pipeline.cli.main import main


@pytest.fixture
def trainloom(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command in this process; returns what it printed."""

    def run(*arguments: Any, code: int = 0) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == code
        told = capsys.readouterr()
        return told.out if code == 0 else told.out + told.err

    return run


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The real digits as PNG images in a folder, and a CSV beside it."""
    from sklearn.datasets import load_digits

    found = load_digits()
    (tmp_path / "images").mkdir()
    for number, image in enumerate(found.images):
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "images" / f"{number}.png")
    with open(tmp_path / "digits.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "label"))
        writer.writerows((f"{number}.png", label) for number, label in enumerate(found.target))
    return tmp_path / "digits.csv"


CONFIGS = """
datasets:
  - dataset_file_name: {file}
    dataset_class_module_name: datasets_impl.packed
    dataset_class_name: PackedDataset
models:
  - model_class_module_name: models_impl.simple_mlp
    model_class_name: SimpleMLP
    model_class_params: {{hidden_size: 64}}
trainings:
  - trainer_class_params: {{metrics: [accuracy]}}
    batch_size: 32
    epoch_limit: 12
    optimizer_class_module_name: torch.optim
    optimizer_class_name: Adam
    criterion_class_module_name: torch.nn
    criterion_class_name: CrossEntropyLoss
grids:
  - datasets: all
    models: all
    trainings: all
"""


@pytest.mark.slow
@pytest.mark.feature("B1", "B2")
def test_images_are_packed_trained_on_and_packed_anew(
    trainloom: Any, digits: Path, project_environment: dict[str, str], tmp_path: Path
) -> None:
    asked = ["--folder", tmp_path / "images", "--channels", 1, "--encoder", "png", "--classes", 10, "--shards", 2]
    split = ["--split", "0.7,0.15,0.15", "--stratify", "label", "--seed", 1]
    packed = json.loads(trainloom("data", "pack", digits, *asked, *split, "--processes", 2, "--json"))
    manifest = Path(packed["manifest"])
    assert manifest.parent.parent == tmp_path / "datasets"
    assert sum(packed["counts"].values()) == 1797
    assert packed["skipped"] == []
    configs = tmp_path / "configs.yaml"
    configs.write_text(CONFIGS.format(file=f"{manifest.parent.name}/{manifest.name}"))
    trainloom("insert", configs)
    trainloom("worker")
    (result,) = json.loads(trainloom("results", "--json"))
    assert result["accuracy"] > 0.9
    traced = json.loads(trainloom("trace", result["task"], "--json"))["dataset"]
    assert traced["origin"]["source"]["list"] == "digits.csv"
    assert len(traced["companions"]) == 2
    assert "the source is as it was" in trainloom("data", "check", manifest)

    before = manifest.read_bytes()
    anew = json.loads(trainloom("data", "pack", "--from", manifest, "--encoder", "jpeg", "--quality", 80, "--json"))
    assert anew["version"] == 2
    assert anew["manifest"] != packed["manifest"]
    assert manifest.read_bytes() == before
    options = packed_manifest.read(anew["manifest"]).options
    assert (options["quality"], options["channels"], options["split"]["seed"]) == (80, 1, 1)

    Image.new("L", (8, 8)).save(tmp_path / "images" / "5.png")
    assert "1 rows of the source changed: 5.png" in trainloom("data", "check", manifest, code=1)
    with open(manifest.parent / "shard-00001.h5", "r+b") as shard:
        shard.seek(-1, 2)
        shard.write(b"x")
    assert "another content" in trainloom("data", "check", manifest, "--shards-only", code=1)


def test_tables_of_numbers_are_packed(trainloom: Any, tmp_path: Path) -> None:
    with open(tmp_path / "numbers.csv", "w", encoding="utf-8") as file:
        file.write("a,b,y\n" + "".join(f"{n},{n / 2},{n % 3}\n" for n in range(30)))
    packed = json.loads(trainloom("data", "pack", tmp_path / "numbers.csv", "-o", tmp_path, "--classes", 3, "--json"))
    manifest = packed_manifest.read(packed["manifest"])
    assert [(column.name, column.role, column.shape) for column in manifest.columns] == [
        ("features", "input", (2,)),
        ("y", "target", ()),
    ]
    again = trainloom("data", "pack", "--from", packed["manifest"], "--storage", "npz")
    assert "packed 30 of 30" in again
    assert "24 train, 3 validation, 3 test" in again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of SOURCE, --from-table and --from"),
        (["nothing.csv", "--folder", "."], "nothing.csv cannot be read"),
        (["list.csv", "--folder", ".", "--dtype", "label=int128"], "the dtype 'int128' of column 'label' is unknown"),
        (["list.csv", "--folder", ".", "--target", "class"], "has no column 'class' (it has image, label)"),
        (["list.csv", "--folder", "nowhere"], "the folder nowhere of the files does not exist"),
        (["list.csv", "--restrict", "x"], "--restrict goes with --from-table"),
        (["--from", "manifest.json", "--input", "x"], "does not exist"),
    ],
)
def test_bad_arguments_are_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("image,label\n1.png,0\n")
    assert main(["data", "pack", *arguments, "-o", str(tmp_path)]) in (1, 78)
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told.splitlines()[0]
