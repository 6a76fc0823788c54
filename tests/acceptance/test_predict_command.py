"""`trainloom predict` from the command line to the bytes: stored models, newest and best, predictions, warm starts."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline import dataset_store
from pipeline.cli.error_chain import describe
from pipeline.cli.main import build_parser
from tests.acceptance.test_model_commands import Told
from tests.integration.digits_tasks import insert_tasks, train, training
from trainloom import (
    DatasetConfig,
    Prediction,
    PredictionTask,
    Session,
    StoredModel,
    TrainingResult,
    TrainingTask,
    connect,
)

TASK = "training_task_md5_hash"


@pytest.fixture
def trainloom(
    project_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Told]:
    """Runs a command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Told:
        args = build_parser().parse_args(list(arguments))
        try:
            code, error = args.action(args), ""
        except Exception as raised:  # as the command prints it
            code, error = 1, describe(raised)
        return Told(code, capsys.readouterr().out, error)

    return run


@pytest.fixture
def trained(trainloom: Callable[..., Told]) -> dict[str, str]:
    """Keys of two trained tasks, one trained for longer, and of their dataset; the inputs of its test tier in files."""
    with connect() as session:
        tasks = insert_tasks(session, training(), training(epoch_limit=5))
        train()
        (dataset,) = DatasetConfig().proj().to_dicts()
        bring_files(session)
    short, long = (str(task[TASK]) for task in tasks)
    return {"short": short, "long": long, "dataset": str(dataset["dataset_config_md5_hash"])}


def bring_files(session: Session) -> None:
    with h5py.File(session.folders.dataset_dir / "digits.h5") as file:
        inputs, targets = file["test/inputs"][()], file["test/targets"][()]
    np.save("inputs.npy", inputs.astype("float64"))
    np.savez("both.npz", inputs=inputs, targets=targets)
    np.save("narrow.npy", inputs[:, :, :4])
    np.save("counts.npy", inputs.astype("uint8"))
    np.save("text.npy", np.array(["a", "b"]))
    dataset_store.save(session.store, {"inputs": inputs, "targets": targets}, "held out", version="1", tags={})


@pytest.mark.feature("N8")
def test_a_stored_model_is_found_predicts_and_is_trained_on(
    trainloom: Callable[..., Told], trained: dict[str, str]
) -> None:
    with connect():
        assert TrainingResult().best("accuracy") == {TASK: trained["long"]}
        newest = TrainingResult().newest()[TASK]
        stored = StoredModel().put(
            TrainingResult().load_model({TASK: trained["long"]}),
            name="digits",
            version="1",
            tags={"of": "digits"},
            metrics={"accuracy": 0.5},
            params={"hidden_size": 16},
            input_shape=(1, 8, 8),
            output_shape=(10,),
        )["stored_model_md5_hash"]
    listed = trainloom("model", "ls", "--stored", "--json").json()
    assert (listed[0]["key"], listed[0]["tags"]) == (stored, {"of": "digits"})

    best = trainloom("predict", "--best", "accuracy", "--dataset", trained["dataset"][:8], "--json").json()
    assert (best["training"], best["state"], best["new"]) == (trained["long"], "finished", True)
    with connect():
        key = {"prediction_task_md5_hash": best["key"]}
        arrays = Prediction().load(key)
        assert (arrays["outputs"].argmax(1) == arrays["targets"]).mean() == best["metrics"]["accuracy"]
        assert best["score"] == (TrainingResult() & {TASK: trained["long"]}).fetch1("test_score")
    again = trainloom("predict", "--newest", "--dataset", trained["dataset"], "--json").json()
    assert again["training"] == newest

    by_stored = trainloom("predict", stored[:8], "--dataset", "inputs.npy", "-o", "stored.npz", "--json").json()
    assert (by_stored["stored_model"], by_stored["key"], by_stored["score"]) == (stored, None, None)
    with np.load("stored.npz") as found:
        np.testing.assert_allclose(found["outputs"], arrays["outputs"], rtol=1e-4, atol=1e-5)

    with connect():
        columns = (TrainingTask() & {TASK: trained["long"]}).fetch1()
        configs = {name: columns[name] for name in columns if name.endswith("_config_md5_hash")}
        (warm,) = TrainingTask().insert_tuples({**configs, "warm_start": best["training"], "seed": 1})
        (cold,) = TrainingTask().insert_tuples({**configs, "seed": 1})
        train()
        first = [(TrainingResult() & one).fetch1("training_epoch_loss_history")[0] for one in (dict(warm), dict(cold))]
        assert first[0] < first[1]
    on = trainloom("predict", warm[TASK], "--dataset", trained["dataset"], "--json").json()
    assert on["metrics"]["accuracy"] > 0.5
    chain = trainloom("trace", on["key"]).out
    assert f"prediction {on['key']} of the tier test: model of task {warm[TASK]}" in chain
    assert "data file digits.h5: sha256" in chain


def test_a_dataset_is_predicted_once_and_written(trainloom: Callable[..., Told], trained: dict[str, str]) -> None:
    told = trainloom("predict", trained["short"][:8], "--dataset", trained["dataset"], "--tier", "validation")
    assert "SimpleMLP on digits.h5 validation: " in told.out and "outputs of shape [10], accuracy " in told.out
    (listed,) = trainloom("task", "list", "--table", "predictions", "--json").json()
    assert (listed["state"], listed["tier"], listed["training"]) == ("finished", "validation", trained["short"])
    assert listed["task"][:8] in trainloom("task", "list", "--table", "predictions").out
    told = trainloom(
        *("predict", trained["short"], "--dataset", trained["dataset"], "--tier", "validation", "-o", "out.csv")
    )
    assert told.out.endswith("written to out.csv\n")
    header, *rows = csv.reader(Path("out.csv").read_text().splitlines())
    assert header == ["example", *(f"outputs[{number}]" for number in range(10)), "targets"]
    assert len(rows) == listed["count"]
    with connect():
        assert len(PredictionTask()) == 1
    refused = trainloom("predict", trained["short"], "--dataset", trained["dataset"], "-o", "out.csv")
    assert (refused.code, "exists; choose another name" in refused.err) == (1, True)
    with connect():
        assert len(PredictionTask()) == 1
    by_name = trainloom("predict", trained["short"], "--dataset", "held out@1", "-o", "out.csv", "--force", "--json")
    assert by_name.json()["data"] == "held out"
    assert by_name.json()["metrics"].keys() == {"loss", "accuracy"}


def test_a_task_can_be_left_to_a_worker(trainloom: Callable[..., Told], trained: dict[str, str]) -> None:
    with connect() as session:
        (untrained,) = insert_tasks(session, training(), seeds=(7,))
    arguments = ("predict", untrained[TASK], "--dataset", trained["dataset"])
    refused = trainloom(*arguments)
    assert refused.code == 1 and "is not trained yet, and a prediction waits for that" in refused.err
    told = trainloom(*arguments, "--queue", "--json").json()
    assert (told["state"], told["count"], told["new"]) == ("waiting", None, True)
    status = trainloom("status", "--json").json()
    assert (status["tasks"]["pending"], status["predictions"]["tasks"]["waiting"]) == (1, 1)
    assert trainloom("status").out.split()[:3] == ["state", "tasks", "predictions"]
    work = trainloom("worker")
    assert "2/2 " in work.out and "SimpleMLP on digits.h5 test: 269 examples, score" in work.out, work
    assert trainloom(*arguments, "--wait", "--json").json()["state"] == "finished"
    assert "There is nothing to predict." in trainloom("worker", "--table", "predictions").out
    with connect():
        assert Prediction().fetch1("predicted_with_md5_hash") == untrained[TASK]


def test_a_file_is_predicted_without_a_row(trainloom: Callable[..., Told], trained: dict[str, str]) -> None:
    told = trainloom("predict", trained["long"], "--dataset", "both.npz", "-o", "out.h5")
    assert "There is no row of this prediction" in told.out and "were not kept" not in told.out
    assert "The outputs were not kept" in trainloom("predict", trained["long"], "--dataset", "both.npz").out
    found = trainloom("predict", "--best", "accuracy", "--dataset", "both.npz", "--json").json()
    with connect():
        assert found["score"] == (TrainingResult() & {TASK: trained["long"]}).fetch1("test_score")
        assert len(PredictionTask()) == 0
    assert found["output"] is None
    assert dataset_store.read(Path("out.h5"))["outputs"].shape == (found["count"], 10)
    bare = trainloom("predict", trained["long"], "--dataset", "inputs.npy", "--batch-size", "7", "--json").json()
    assert (bare["count"], bare["score"], bare["metrics"]) == (found["count"], None, {})


WRONG: list[tuple[tuple[str, ...], str]] = [
    (("0000", "--dataset", "{dataset}"), "there is no task with a key that begins with 0000"),
    (("{long}", "--dataset", "0000"), "there is no data '0000'"),
    (("{long}", "--dataset", "nothing"), "there is no data 'nothing'"),
    (("{long}", "--dataset", "held out@2"), "there is no data 'held out@2'"),
    (("--best", "acuracy", "--dataset", "{dataset}"), "no model has the metric or column 'acuracy'"),
    (("--newest", "-f", "seed=9", "--dataset", "{dataset}"), "no"),
    (("{long}", "-f", "seed=1", "--dataset", "{dataset}"), "--filter chooses among results"),
    (("{long}", "--dataset", "held out", "--tier", "test"), "a stored dataset has no tiers"),
    (("{long}", "--dataset", "{dataset}", "--queue", "-o", "x.h5"), "with --queue there are no outputs"),
    (("{long}", "--dataset", "{dataset}", "-o", "x.txt"), "let it end in .h5, .npz, .csv"),
    (("{long}", "--dataset", "none.npy"), "there is no file none.npy"),
    (("{long}", "--dataset", "narrow.npy", "-o", "x.h5"), "narrow.npy have the shape [1, 4, 8], but the model"),
    (("{long}", "--dataset", "counts.npy", "-o", "x.h5"), "SimpleMLP cannot be applied to counts.npy"),
    (("{long}", "--dataset", "text.npy"), "text.npy cannot be predicted: inputs has dtype <U1"),
    (("{long}", "--dataset", "inputs.npy", "--wait"), "a file of arrays is predicted here"),
]


def test_an_error_is_one_sentence_and_nothing_is_inserted(
    trainloom: Callable[..., Told], trained: dict[str, str]
) -> None:
    for arguments, message in WRONG:
        told = trainloom("predict", *(argument.format(**trained) for argument in arguments))
        assert (told.code, message in told.err, told.out) == (1, True, ""), told
    with connect():
        assert len(PredictionTask()) == 0
    assert not [path for path in Path().iterdir() if path.name.startswith(("x.", ".x."))]
