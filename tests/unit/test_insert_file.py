"""Files of rows, as they are read; how they are inserted is shown with the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.insert_file import InvalidInsertFile, read

YAML = """
models:
  - name: mlp
    model_class_module_name: models_impl.simple_mlp
    model_class_name: SimpleMLP
    model_class_params: {hidden_size: 100, dropout: 1e-1, l2_loss_lamda: 2.5E-3}
grids:
  - {datasets: all, models: [mlp], trainings: all, seeds: [0, 1]}
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_and_json_read_alike(tmp_path: Path) -> None:
    from_yaml = read(written(tmp_path, "rows.yaml", YAML)).sections
    from_json = read(written(tmp_path, "rows.json", json.dumps(from_yaml))).sections
    assert from_json == from_yaml
    assert from_yaml["grids"] == [{"datasets": "all", "models": ["mlp"], "trainings": "all", "seeds": [0, 1]}]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E5", 1e5), ("-2e+3", -2e3), (".5e1", 5.0), ("1.e2", 100.0), ("0.1", 0.1), ("10", 10)],
)
def test_numbers_in_yaml_are_numbers(tmp_path: Path, text: str, value: float) -> None:
    rows = read(written(tmp_path, "rows.yaml", f"models: [{{model_class_params: {{lr: {text}}}}}]")).sections["models"]
    found = rows[0]["model_class_params"]["lr"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["1e", "e5", "0x1e5g", "1e5a", "v1e5"])
def test_text_in_yaml_stays_text(tmp_path: Path, text: str) -> None:
    rows = read(written(tmp_path, "rows.yaml", f"models: [{{name: {text}}}]")).sections["models"]
    assert rows[0]["name"] == text


def test_anchors_share_parameters(tmp_path: Path) -> None:
    text = "trainings: [&base {batch_size: 32, epoch_limit: 1}, {<<: *base, batch_size: 64}]"
    rows = read(written(tmp_path, "rows.yaml", text)).sections["trainings"]
    assert rows[1] == {"batch_size": 64, "epoch_limit": 1}


def test_csv_cells_have_the_types_of_their_columns(tmp_path: Path) -> None:
    text = (
        "\ufeffname,batch_size,optimizer_class_name,optimizer_class_params,priority\n"
        'adam,32,Adam,"{""lr"": 0.001, ""betas"": [0.9, 0.999]}",\n'
        "\n"
        "sgd,64,SGD,,3\n"
    )
    rows = read(written(tmp_path, "rows.csv", text), "trainings").sections["trainings"]
    assert rows == [
        {
            "name": "adam",
            "batch_size": 32,
            "optimizer_class_name": "Adam",
            "optimizer_class_params": {"lr": 0.001, "betas": [0.9, 0.999]},
        },
        {"name": "sgd", "batch_size": 64, "optimizer_class_name": "SGD", "priority": 3},
    ]


@pytest.mark.parametrize(
    ("name", "text", "section", "told"),
    [
        ("rows.txt", "", None, "neither YAML, JSON nor CSV"),
        ("rows.csv", "a\n1\n", None, "--table datasets"),
        ("rows.yaml", YAML, "models", "--table is for CSV"),
        ("rows.yaml", "models: [", None, "not valid YAML"),
        ("rows.json", "{", None, "not valid JSON"),
        ("rows.json", "[1]", None, "must hold the sections"),
        ("rows.yaml", "", None, "must hold the sections"),
        ("rows.yaml", "model: []", None, "section 'model'"),
        ("rows.yaml", "models: &a [*a]", None, "not valid YAML"),
        ("rows.yaml", "models: {a: 1}", None, "models must be a list"),
        ("rows.yaml", "models: [a]", None, "models row 0: a row is a mapping"),
        ("rows.yaml", "models: []", None, "holds no rows"),
        ("rows.yaml", "models: [{model_class_params: {a: 1, a: 2}}]", None, "'a' is given twice"),
        ("rows.yaml", "models: [{model_class_params: {[1]: a}}]", None, "the name [1] is not text"),
        ("rows.yaml", "models: [{model_class_params: {on: a}}]", None, "the name True is not text"),
        ("rows.json", '{"models": [], "models": []}', None, "'models' is given twice"),
        ("rows.yaml", "models: [{a: !!python/object:os.system {}}]", None, "not valid YAML"),
        ("rows.csv", "a,a\n1,2\n", "models", "line 1: every column needs a name"),
        ("rows.csv", "a,b\n1\n", "models", "line 2: it has 1 cells and the first line 2"),
        ("rows.csv", "a,b\n", "models", "line 2: there are no rows"),
        ("rows.csv", "batch_size\n1.5\n", "trainings", "line 2: batch_size must be a whole number, not '1.5'"),
        ("rows.csv", "model_class_params\n{a: 1}\n", "models", "line 2: model_class_params is not valid JSON"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, name: str, text: str, section: str | None, told: str) -> None:
    path = written(tmp_path, name, text)
    with pytest.raises(InvalidInsertFile) as caught:
        read(path, section)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidInsertFile, match="cannot be read: No such file"):
        read(tmp_path / "rows.yaml")


def test_a_file_in_another_encoding_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_bytes("models: [{name: größe}]".encode("latin-1"))
    with pytest.raises(InvalidInsertFile, match="not UTF-8"):
        read(tmp_path / "rows.yaml")
