"""Trainings followed through their events, and results compared in a report."""

from __future__ import annotations

import csv
import html.parser
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline import report, task_queue
from pipeline.cli import watch
from pipeline.event_record import EventsUnavailable, Selection
from pipeline.followed_training import FollowedTraining
from pipeline.report import ReportFolderTaken, write_report
from pipeline.report_choice import NothingToReport, chosen_results
from pipeline.report_content import divided
from pipeline.session import Session
from pipeline.short_keys import UnknownKey
from pipeline.task_states import TASK_KEY, State
from pipeline.training_curve import TrainingCurve, finished_curve, present_attempts
from schemas.attempt import Attempt
from tests.integration.small_tasks import DROPOUT, EPOCHS, SEEDS, SHUFFLED, insert
from trainers.epochs import Epochs
from trainloom import DatasetConfig, TrainingResult


class Reader(html.parser.HTMLParser):
    """Checks that elements are closed in order, and keeps what they are."""

    VOID = ("meta",)

    def __init__(self, page: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.feed(page)
        assert self.opened == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not (self.get_starttag_text() or "").endswith("/>") or self.opened[-1:] == [tag]:
            assert self.opened.pop() == tag


@pytest.fixture
def trained(postgres_session: Session) -> list[str]:
    """Keys of two finished tasks that differ in their seed."""
    keys = insert(postgres_session)
    TrainingResult().populate(reserve_jobs=True)
    postgres_session.events.flush()
    return [key[TASK_KEY] for key in keys]


@pytest.mark.feature("B5")
def test_a_training_is_followed_from_before_it_begins_to_its_end(session: Session) -> None:
    (key,) = (key[TASK_KEY] for key in insert(session, SEEDS[:1]))
    followed = FollowedTraining.of(session.events, key[:8])
    before = followed.look()
    assert (before.state, before.events, before.ended) == (State.PENDING, [], False)
    assert followed.state.max_epoch == EPOCHS
    TrainingResult().populate(reserve_jobs=True)
    after = followed.look()
    assert after.ended
    assert [event["kind"] for event in after.events].count("training") == EPOCHS
    assert followed.look().events == []
    row = (TrainingResult & {TASK_KEY: key}).fetch1()
    assert followed.curve.points("training_loss") == ([*range(1, EPOCHS + 1)], row["training_epoch_loss_history"])
    assert followed.state.last()["validation_loss"] == row["validation_epoch_loss_history"][-1]
    assert followed.state.epoch == EPOCHS


def test_a_training_that_runs_is_told_with_its_worker(
    postgres_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at from within, at the end of its second epoch."""
    (key,) = (key[TASK_KEY] for key in insert(postgres_session, SEEDS[:1]))
    looks: list[Any] = []
    finish = Epochs._finish_epoch

    def looked_at(self: Any, *losses: Any) -> Any:
        if self._state.epochs_done == 1:
            followed = FollowedTraining.of(postgres_session.events, key)
            looks.append((followed.look(), followed))
        return finish(self, *losses)

    monkeypatch.setattr(Epochs, "_finish_epoch", looked_at)
    TrainingResult().populate(reserve_jobs=True)
    ((look, followed),) = looks
    assert look.state is State.RUNNING
    assert look.worker is not None
    assert f"process {look.worker['pid']}" in look.text()
    assert followed.curve.points("training_loss")[0] == [1]


def test_an_earlier_training_of_the_task_is_left_out_and_one_that_was_resumed_is_not(trained: list[str]) -> None:
    first = trained[0]
    columns = (Attempt & {"attempt_key": first}).to_dicts()[0]
    ids = [f"{number:032x}" for number in range(4)]
    (Attempt & {"attempt_key": first}).delete(prompt=False)
    outcomes = ("preempted", "finished", "lost", "running")
    Attempt().insert(
        {**columns, "attempt_id": made, "attempt_outcome": outcome, "attempt_start": f"2026-01-0{day} 00:00:00"}
        for day, (made, outcome) in enumerate(zip(ids, outcomes, strict=True), start=1)
    )
    assert present_attempts(first) == frozenset(ids[2:])
    for later in ids[2:]:
        (Attempt & {"attempt_id": later}).delete(prompt=False)
    assert present_attempts(first) == frozenset(ids[:2])


def test_losses_come_from_the_result_where_events_were_deleted(postgres_session: Session, trained: list[str]) -> None:
    whole = finished_curve(postgres_session.events, trained[0])
    assert "validation_accuracy" in whole.names
    postgres_session.events.delete(Selection(task=trained[0]))
    bare = finished_curve(postgres_session.events, trained[0])
    assert bare.names == ["training_loss", "validation_loss", "regularization_loss"]
    assert bare.points("training_loss") == whole.points("training_loss")


def test_events_that_cannot_be_read_are_said_once_and_the_watch_goes_on(
    postgres_session: Session, trained: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = FollowedTraining.of(postgres_session.events, trained[0])

    def away(*_: Any, **__: Any) -> Any:
        raise EventsUnavailable("MongoDB does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(type(postgres_session.events), "read", away)
        assert [followed.look().events for _ in range(3)] == [[], [], []]
    assert caplog.text.count("MongoDB does not answer") == 1
    assert len(followed.look().events) == 2 * EPOCHS + 1


def test_an_epoch_that_was_trained_again_has_its_newest_values() -> None:
    curve = TrainingCurve()
    curve.add_event({"kind": "training", "epoch": 1, "loss": 2.0, "attempt": "a"})
    curve.add_event({"kind": "training", "epoch": 1, "loss": 1.0, "regularization_loss": 0.5, "attempt": "b"})
    curve.add_event({"kind": "training", "epoch": 2, "loss": math.nan})
    assert not curve.add_event({"kind": "gpu", "epoch": 3, "power": 1.0})
    assert curve.epochs[1] == {"training_loss": 1.0, "regularization_loss": 0.5}
    assert sorted(curve.epochs) == [1, 2]


def test_an_epoch_whose_values_are_on_their_way_is_not_whole_yet() -> None:
    curve = TrainingCurve({1: {"a": 1.0, "b": 1.0}, 2: {"a": 1.0}})
    assert curve.whole(ended=False) == [1]
    assert curve.whole(ended=True) == [1, 2]


@pytest.mark.feature("B6")
def test_a_report_holds_page_pictures_and_every_epoch(
    postgres_session: Session, trained: list[str], tmp_path: Path
) -> None:
    page = write_report(trained, tmp_path / "deep" / "report", postgres_session)
    folder = page.parent
    for key in trained:
        row = (TrainingResult & {TASK_KEY: key}).fetch1()
        with (folder / "curves" / f"{key}.csv").open(newline="") as file:
            epochs = list(csv.DictReader(file))
        assert [int(epoch["epoch"]) for epoch in epochs] == [*range(1, EPOCHS + 1)]
        assert [float(epoch["training_loss"]) for epoch in epochs] == row["training_epoch_loss_history"]
        assert all(0 <= float(epoch["validation_accuracy"]) <= 1 for epoch in epochs)
        assert (folder / "curves" / f"{key}.png").read_bytes().startswith(b"\x89PNG")
    for name in ("training_loss", "validation_loss", "validation_accuracy"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "results.csv").open(newline="") as file:
        results = list(csv.DictReader(file))
    assert [row["task"] for row in results] == trained
    assert [row["seed"] for row in results] == ["0", "1"]
    assert "model hidden_size" not in results[0]  # it is the same in both
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.feature("B6")
def test_the_page_is_whole_and_needs_nothing_else(
    postgres_session: Session, trained: list[str], tmp_path: Path
) -> None:
    text = write_report(trained, tmp_path / "report", postgres_session).read_text()
    page = Reader(text)
    assert page.links == []
    assert "url(" not in text
    assert page.seen.count("svg") == 3  # two losses and the accuracy; there is no regularization
    assert page.seen.count("polyline") == 2 * 3
    assert page.seen.count("details") == len(trained)
    assert 'name="viewport"' in text
    assert "color-scheme: light dark" in text
    assert re.search(r"<th>model hidden_size</th><td>8</td>", text)
    assert "sha256" in text


def test_what_rows_hold_is_escaped(postgres_session: Session, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    (key,) = insert(postgres_session, SEEDS[:1])
    TrainingResult().populate(reserve_jobs=True)
    TrainingResult.Metric().insert1({**key, "metric_name": evil, "metric_value": 1.0, "metric_direction": "max"})
    TrainingResult.Provenance().update1({**key, "host": evil, "notes": [evil, "$\\frac$"]})
    task = (TrainingResult & key).fetch1(TASK_KEY)
    postgres_session.connection.query(
        f"UPDATE {DatasetConfig().full_table_name} SET dataset_file_name = %s", args=(evil,)
    )
    text = write_report([task], tmp_path / "report", postgres_session).read_text()
    Reader(text)
    assert text.count("<script>") == 1  # the page's own
    assert text.count("&lt;script&gt;alert(1)") >= 4


def test_a_report_replaces_a_report_and_nothing_else(
    postgres_session: Session, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    write_report(trained, folder, postgres_session)
    (folder / "note.txt").write_text("of the old report")
    write_report(trained[:1], folder, postgres_session)
    assert json.loads((folder / report.MARK).read_text())["tasks"] == trained[:1]
    assert not (folder / "note.txt").exists()

    def broken(*_: Any) -> None:
        raise OSError("no space left")

    before = sorted(path.name for path in folder.rglob("*"))
    with monkeypatch.context() as patched:
        patched.setattr(report, "_write_results", broken)
        with pytest.raises(OSError, match="no space left"):
            write_report(trained, folder, postgres_session)
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert [path.name for path in tmp_path.glob("*report*")] == ["report"]
    assert not list(tmp_path.glob(".unfinished*"))

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(ReportFolderTaken, match=r"give a new folder"):
            write_report(trained, taken, postgres_session)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.feature("B6")
def test_results_are_chosen_by_key_condition_and_order(postgres_session: Session, trained: list[str]) -> None:
    first, second = trained
    assert chosen_results([second[:8], first[:8]], [], None, 5) == ([second, first], 0)
    assert chosen_results([], ["seed=1"], None, 5) == ([second], 0)
    assert chosen_results([], [], "seed", 1) == ([first], 1)
    assert chosen_results([], [], "seed", 1, descending=True) == ([second], 1)
    with pytest.raises(NothingToReport, match="no result fulfils"):
        chosen_results([], ["seed=7"], None, 5)
    with pytest.raises(UnknownKey):
        chosen_results(["ffffffff"], [], None, 5)
    (waiting,) = insert(postgres_session, [9])
    with pytest.raises(NothingToReport, match=waiting[TASK_KEY][:8]):
        chosen_results([first, waiting[TASK_KEY]], [], None, 5)


def test_without_results_there_is_nothing_to_report(postgres_session: Session) -> None:
    insert(postgres_session, SEEDS[:1], DROPOUT, SHUFFLED)
    with pytest.raises(NothingToReport, match="there is no result yet"):
        chosen_results([], [], None, 5)


def test_what_differs_is_told_apart_from_what_all_share() -> None:
    rows = [{"model": "A", "lr": "1", "seed": "0"}, {"model": "A", "seed": "1"}]
    assert divided(rows) == (["lr", "seed"], {"model": "A"})
    assert divided(rows[:1]) == ([], rows[0])


def test_the_watch_ends_with_what_became_of_the_training(
    postgres_session: Session, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    followed = FollowedTraining.of(postgres_session.events, trained[0])
    last = watch._print_json_lines(followed, watch._looks(followed, 0.1))
    assert watch._told_end(last) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["epoch"] for line in told if line["kind"] == "training"] == [*range(1, EPOCHS + 1)]
    assert [line["state"] for line in told if line["kind"] == "state"] == ["finished"]

    (key,) = insert(postgres_session, [5])
    followed = FollowedTraining.of(postgres_session.events, key[TASK_KEY])
    task_queue.cancel([key[TASK_KEY]])
    last = watch._print_lines(followed, watch._looks(followed, 0.1), postgres_session.settings)
    assert watch._told_end(last) == 1
    assert "cancelled" in capsys.readouterr().err
