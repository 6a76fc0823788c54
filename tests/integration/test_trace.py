from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.main import build_parser
from pipeline.provenance import module_text
from pipeline.short_keys import UnknownKey
from pipeline.store.interface import parse_address
from pipeline.trace import render, trace
from schemas.model_config import ModelConfig
from tests.integration.digits_tasks import insert_tasks, train, training


@pytest.mark.feature("N9")
def test_the_whole_chain_of_a_result(session: Any) -> None:
    (key,) = insert_tasks(session, training(), seeds=[3])
    train()
    found = trace(key)
    assert found == trace(key["training_task_md5_hash"][:8])

    dataset, model, result = found["dataset"], found["model"], found["result"]
    assert dataset["file"] == "digits.h5"
    data = Path(session.folders.dataset_dir) / "digits.h5"
    assert session.store.get_bytes(dataset["sha256"]) == data.read_bytes()
    assert dataset["in_store"] is True
    assert dataset["classes"]["dataset"]["class"] == "datasets_impl.digits.DigitsDataset"
    assert (dataset["input_shape"], dataset["output_shape"]) == ([1, 8, 8], [10])
    assert model["classes"]["model"]["given"] == {"hidden_size": 16}
    assert model["classes"]["model"]["params"]["num_hidden_layers"] == 1
    assert found["training"]["classes"]["optimizer"]["class"] == "torch.optim.Adam"
    assert found["training"]["classes"]["optimizer"]["params"]["betas"] == [0.9, 0.999]
    assert found["task"]["seed"] == 3
    assert {metric["name"]: metric["direction"] for metric in result["metrics"]} == {"accuracy": "max", "loss": "min"}
    (weights,) = result["artifacts"]
    assert weights["sha256"] == parse_address(result["model_save_path"])
    assert weights["in_store"] is True
    assert weights["size"] == len(session.store.get_bytes(weights["sha256"]))
    code = found["provenance"]["code"]["model"]
    assert (code["module"], code["changed"]) == ("models_impl.simple_mlp", False)
    assert "code_texts" not in found["provenance"]
    texts = trace(key, code=True)["provenance"]["code_texts"]
    assert texts[code["sha256"]] == module_text("models_impl.simple_mlp")[1]

    text = render(found)
    for part in (
        f"data file digits.h5: sha256 {dataset['sha256']}, in the store",
        "models_impl.simple_mlp.SimpleMLP(hidden_size=16)",
        "optimizer: torch.optim.Adam(lr=0.01)",
        f"task {key['training_task_md5_hash']}: seed 3, inserted ",
        f"torch {found['provenance']['packages']['torch']}",
        result["model_save_path"],
    ):
        assert part in text
    lines = text.splitlines()
    assert lines[0].startswith("data file")
    assert lines[-1].strip().startswith("weights: safetensors")

    session.store.delete(weights["sha256"])
    assert trace(key)["result"]["artifacts"][0]["in_store"] is False
    assert render(trace(key)).endswith("bytes, not in the store")


def test_a_task_that_waits_is_traced_as_far_as_it_goes(postgres_session: Any) -> None:
    (key,) = insert_tasks(postgres_session, training())
    found = trace(key)
    assert found["result"] is None
    assert found["provenance"] is None
    assert render(found).endswith("not trained yet: `trainloom worker` trains what waits")
    with pytest.raises(UnknownKey, match="there is no task with a key that begins with"):
        trace("0" * 32)


def test_a_configuration_that_was_changed_is_said(postgres_session: Any) -> None:
    (key,) = insert_tasks(postgres_session, training())
    row = ModelConfig().fetch1()
    text = row["model_config_text"]["text"].replace('"hidden_size":16', '"hidden_size":17')
    assert text != row["model_config_text"]["text"]
    postgres_session.connection.query(
        f"UPDATE {ModelConfig().full_table_name} SET model_config_text = %s", args=(json.dumps({"text": text}),)
    )
    assert "was changed after its insertion" in trace(key)["model"]["damage"]
    assert "was changed after its insertion" in render(trace(key))


def test_the_command_prints_tree_json_and_code(postgres_session: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (key,) = insert_tasks(postgres_session, training())
    train()
    found = trace(key)
    prefix = key["training_task_md5_hash"][:8]

    def command(*argv: str) -> str:
        args = build_parser().parse_args(["trace", prefix, *argv])
        assert args.action(args) == 0
        return capsys.readouterr().out

    assert command() == render(found) + "\n"
    printed = json.loads(command("--json"))
    assert printed["result"]["metrics"] == found["result"]["metrics"]
    assert printed["task"]["utc_insert_time"].endswith("+00:00")
    assert "\nclass SimpleMLP(" in command("--code")
