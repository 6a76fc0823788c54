"""How trainings are shown: formats, averages, states, terminals, lines, notebooks, TensorBoard."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import pty
import random
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.reporters import choice, curve_svg, pace, plain_view, several, terminal_curve, training_state
from pipeline.reporters.moving_average import moving_average
from pipeline.reporters.notebook_view import NotebookView
from pipeline.reporters.plain_view import PlainView, progress_line
from pipeline.reporters.pool_display import PoolDisplay
from pipeline.reporters.pool_view import PROGRESS, PoolView, Snapshot, snapshot
from pipeline.reporters.refresher import Refresher
from pipeline.reporters.several import Several
from pipeline.reporters.shared_terminal import SharedTerminal
from pipeline.reporters.tensorboard_view import TensorboardView
from pipeline.reporters.terminal_frame import TerminalFrame, closing_line, position
from pipeline.reporters.terminal_view import TerminalView
from pipeline.reporters.training_state import Training, TrainingState
from pipeline.reporters.value_format import InvalidFormat, ValueFormats
from pipeline.settings import Settings

TRAINING = Training("ab" * 16, "abababab  SmallCNN, digits.h5, Adam, seed 0", 32)
PLAIN = ValueFormats()


class Clock:
    """A time that only the test moves, s."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (training_state, pace, several):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made))
    return made


@pytest.fixture
def state() -> TrainingState:
    """A training of 4 epochs with 10 batches each, two of which are done."""
    made = TrainingState(TRAINING, batches=10)
    made.begin(0, 4)
    made.finish_epoch(0, {"training_loss": 2.0, "validation_loss": 3.0, "validation_accuracy": 0.25})
    made.finish_epoch(1, {"training_loss": 1.0, "validation_loss": 2.0, "validation_accuracy": 0.5})
    return made


@pytest.mark.parametrize(
    ("values", "window", "mean"),
    [([1.0, 2.0, 6.0], 2, 4.0), ([1.0], 5, 1.0), ([4.0, math.nan, 2.0, math.inf], 4, 3.0)],
)
def test_the_moving_average_is_that_of_the_last_finite_values(values: list[float], window: int, mean: float) -> None:
    assert moving_average(values, window) == mean


def test_without_finite_values_there_is_no_average() -> None:
    assert math.isnan(moving_average([math.nan], 3))


@pytest.mark.feature("B5")
def test_values_are_written_raw_in_percent_in_a_format_of_ones_own_or_not_at_all() -> None:
    formats = ValueFormats(["accuracy=percent", "training_accuracy=.1f", "loss=.2e", "regularization_loss=hidden"])
    assert formats.text("validation_accuracy", 0.12345) == "12.35 %"
    assert formats.text("training_accuracy", 0.12345) == "0.1"
    assert formats.text("validation_loss", 0.00012345) == "1.23e-04"
    assert formats.text("correlation", 0.123456) == "0.1235"
    assert not formats.is_shown("regularization_loss")
    assert formats.is_shown("validation_loss")
    assert PLAIN.text("x", math.nan) == "nan"


@pytest.mark.parametrize("wrong", ["accuracy", "=percent", "accuracy=", "accuracy=percents", "loss={x}"])
def test_a_format_that_is_none_is_refused_by_its_name(wrong: str) -> None:
    with pytest.raises(InvalidFormat, match=r"write such as|is no format for"):
        ValueFormats([wrong])
    with pytest.raises(ValueError, match="value_formats"):
        Settings(value_formats=(wrong,))


def test_formats_are_read_from_the_environment() -> None:
    loaded = Settings.load(env={"TRAINLOOM_VALUE_FORMATS": "accuracy=percent, loss=.2e"})
    assert loaded.value_formats == ("accuracy=percent", "loss=.2e")


def test_time_left_and_throughput_come_from_what_this_attempt_has_done(clock: Clock) -> None:
    state = TrainingState(TRAINING, batches=10)
    state.begin(2, 6)  # two epochs lay behind
    assert state.seconds_left is None
    assert state.batches_per_second() is None
    clock.now += 5
    state.move(2, 5)
    assert state.seconds_left == pytest.approx(5 / 0.5 * 3.5)
    assert state.batches_per_second() == pytest.approx(1.0)
    clock.now += 5
    state.finish_epoch(2, {"training_loss": 1.0})
    assert state.seconds_left == pytest.approx(10 * 3)
    assert position(state) == "epoch 3/6"


def test_the_throughput_is_that_of_the_last_seconds(clock: Clock) -> None:
    state = TrainingState(TRAINING, batches=10_000)
    state.begin(0, 1)
    for speed in [1] * 30 + [100] * 30:
        state.batches_per_second()
        clock.now += 1
        state.move(0, state.step + speed)
    assert state.batches_per_second() == pytest.approx(100)


def test_a_trainer_that_knows_no_epochs_counts_batches_alone() -> None:
    state = TrainingState(TRAINING)
    state.begin(0, 3)
    state.move(-1, 7)
    assert (state.epoch, state.step) == (0, 7)
    assert position(state) == "epoch 0/3, batch 7"


class Recorder:
    """A view that notes its calls, and may fail at one of them."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[str] = []
        self._failing = failing

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self._failing:
            raise OSError("the terminal has gone")

    def begin(self, state: TrainingState) -> None:
        self._note("begin")

    def moved(self, state: TrainingState) -> None:
        self._note("moved")

    def epoch(self, state: TrainingState) -> None:
        self._note("epoch")

    def end(self, state: TrainingState) -> None:
        self._note("end")


def test_views_hear_of_batches_some_times_per_second_only(clock: Clock) -> None:
    view = Recorder()
    with Several(TRAINING, [view]) as reporter:
        reporter.started(0, 1)
        for step in range(1, 1001):
            clock.now += 0.001
            reporter.progress(0, step)
        assert reporter.state.step == 1000
        reporter.epoch_finished(0, {"training_loss": 1.0})
    assert 9 <= view.calls.count("moved") <= 11
    assert [call for call in view.calls if call != "moved"] == ["begin", "epoch", "end"]


@pytest.mark.parametrize("failing", ["begin", "moved", "epoch", "end"])
def test_a_view_that_fails_is_left_out_and_the_training_goes_on(failing: str, caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = Recorder(failing), Recorder()
    with Several(TRAINING, [broken, sound]) as reporter:
        reporter.started(0, 1)
        reporter.progress(0, 1)
        reporter.epoch_finished(0, {"training_loss": 1.0})
    assert sound.calls == ["begin", "moved", "epoch", "end"]
    assert broken.calls[-1] == failing
    assert caplog.text.count("the terminal has gone") == 1


def test_a_training_that_never_began_shows_nothing() -> None:
    view = Recorder()
    with Several(TRAINING, [view]):
        pass
    assert view.calls == []


@pytest.mark.feature("B5")
def test_the_frame_has_bar_values_averages_and_the_curve(state: TrainingState) -> None:
    drawn = _rendered(TerminalFrame(ValueFormats(["accuracy=percent"]), 2), state)
    assert "SmallCNN" in drawn
    assert "epoch 2/4" in drawn
    assert "━" in drawn
    assert "left" in drawn
    assert "mean of 2: 1.5" in drawn
    assert "50.00 %" in drawn
    assert "37.50 %" in drawn
    assert any("\u2800" < letter <= "\u28ff" for letter in drawn)  # braille dots


def test_hidden_values_are_neither_listed_nor_drawn(state: TrainingState) -> None:
    drawn = _rendered(TerminalFrame(ValueFormats(["loss=hidden"]), 1), state)
    assert "loss" not in drawn
    assert "┌" not in drawn
    assert "mean of" not in drawn


def test_the_curve_is_drawn_anew_only_when_an_epoch_ended(
    state: TrainingState, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = terminal_curve.draw
    monkeypatch.setattr(terminal_curve, "draw", lambda *args: drawn.append(1) or draw(*args))
    frame = TerminalFrame(PLAIN, 1)
    for step in range(5):
        state.move(2, step)
        frame.render(state, 80, 30)
    assert len(drawn) == 1
    state.finish_epoch(2, {"training_loss": 0.5})
    frame.render(state, 80, 30)
    assert len(drawn) == 2


def test_a_small_terminal_gets_no_curve(state: TrainingState) -> None:
    assert "┌" not in _rendered(TerminalFrame(PLAIN, 1), state, height=10)
    assert terminal_curve.draw({"a": ([1, 2], [1.0, 2.0])}, 10, 12) == ""


@pytest.mark.parametrize("values", [[], [math.nan, math.inf]])
def test_curves_without_a_finite_value_are_empty(values: list[float]) -> None:
    curve = (list(range(1, len(values) + 1)), values)
    assert terminal_curve.draw({"a": curve}, 80, 12) == ""
    assert curve_svg.draw({"a": curve}, "loss") == ""


def test_long_curves_are_thinned_and_keep_their_last_point() -> None:
    epochs = list(range(1, 100_001))
    svg = curve_svg.draw({"a": (epochs, [1.0 / epoch for epoch in epochs])}, "loss")
    assert len(svg) < 20_000
    assert f"{curve_svg.WIDTH - curve_svg.RIGHT}" in svg.partition("points=")[2].partition('"')[2].partition('"')[0]


def test_names_in_an_svg_are_escaped() -> None:
    svg = curve_svg.draw({"<script>": ([1, 2], [1.0, 2.0])}, '"><script>')
    assert "<script" not in svg


@pytest.mark.feature("B5")
def test_drawing_leaves_the_random_states_of_the_training_alone(
    state: TrainingState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    view = TerminalView(PLAIN, 5)
    view.begin(state)
    view.moved(state)
    view.epoch(state)
    view.end(state)
    curve_svg.draw({"a": state.history["training_loss"]}, "loss")
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # type: ignore[index]


def test_a_training_leaves_one_line_behind_if_it_was_no_matter_of_seconds(
    clock: Clock, state: TrainingState, capsys: pytest.CaptureFixture[str]
) -> None:
    view = PlainView(PLAIN)
    for seconds in (9, 2):
        view.begin(state)
        view.moved(state)
        view.epoch(state)
        clock.now += seconds
        view.end(state)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "abababab  SmallCNN, digits.h5, Adam, seed 0: 2 of 4 epochs in 11 s, "
        "training_loss 1, validation_loss 2, validation_accuracy 0.5"
    )


@pytest.mark.feature("B5")
def test_plain_lines_come_the_rarer_the_longer_it_lasts(
    clock: Clock, state: TrainingState, capsys: pytest.CaptureFixture[str]
) -> None:
    view = PlainView(PLAIN)
    view.begin(state)
    counts = []
    for seconds in (9, 51, 540, 3600):
        for _ in range(seconds * 4):
            clock.now += 0.25
            view.moved(state)
        counts.append(len(capsys.readouterr().err.splitlines()))
    assert counts[0] == 0
    assert counts[1] == 6
    assert 10 <= counts[2] <= 30
    assert 58 <= counts[3] <= 61


def test_a_plain_line_says_which_training_and_how_far(clock: Clock) -> None:
    state = TrainingState(TRAINING, batches=10)
    state.begin(0, 4)
    clock.now += 30
    state.finish_epoch(0, {"training_loss": 2.0})
    assert progress_line(state, PLAIN) == f"{TRAINING.title}: epoch 1/4, training_loss 2, 1.5 min left"


@pytest.mark.feature("B5")
def test_two_processes_on_one_terminal_write_lines_and_one_alone_draws() -> None:
    controller, device = pty.openpty()
    with os.fdopen(device, "w") as terminal, os.fdopen(controller, "rb"):
        first = SharedTerminal(terminal)
        assert first.alone()
        program = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from pipeline.reporters.shared_terminal import SharedTerminal\n"
            "share = SharedTerminal(sys.stderr)\n"
            "print(share.alone(), flush=True)\n"
            "sys.stdin.read()\n"
        )
        root = str(Path(__file__).parents[2])
        other = subprocess.Popen(
            [sys.executable, "-c", program, root], stderr=terminal, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert other.stdout is not None
        assert other.stdout.readline() == b"False\n"
        assert not first.alone()
        other.communicate()
        assert first.alone()
        first.close()


def test_a_terminal_view_turns_to_lines_when_another_process_comes(
    state: TrainingState, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = iter([True, True, False])
    monkeypatch.setattr(SharedTerminal, "alone", lambda self: next(alone))
    monkeypatch.setattr(Refresher, "_run", lambda self: self._draw())
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    view = TerminalView(PLAIN, 1)
    monkeypatch.setattr(plain_view.Pace, "due", lambda self: True)
    view.begin(state)
    view._refresher._thread.join()  # type: ignore[union-attr]
    view.moved(state)
    view.end(state)
    assert written.getvalue().splitlines()[-2:] == [progress_line(state, PLAIN), closing_line(state, PLAIN)]


def test_a_drawing_that_fails_is_said_and_was_the_last(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.reporters.refresher.INTERVAL", 0.0)
    calls: list[int] = []

    def draw() -> None:
        calls.append(1)
        raise OSError("no terminal")

    refresher = Refresher(draw)
    refresher._thread.join()
    refresher.stop()
    assert len(calls) == 1
    assert "progress is no longer drawn: no terminal" in caplog.text


@pytest.mark.parametrize(("cost", "pause"), [(0.0001, 0.5), (0.004, 2.0), (1.0, 5.0)])
def test_drawing_takes_a_bounded_share_of_the_time(cost: float, pause: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    used = iter([0.0, cost, 0.0, cost])
    monkeypatch.setattr("pipeline.reporters.refresher.time", SimpleNamespace(thread_time=lambda: next(used)))

    def wait(self: threading.Event, seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) > 1

    monkeypatch.setattr(
        "pipeline.reporters.refresher.threading.Event", type("Event", (), {"wait": wait, "set": lambda self: None})
    )
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    refresher = Refresher(lambda: None)
    refresher._run()
    assert pauses[1] == pytest.approx(pause)


def test_a_worker_process_tells_its_parent_about_once_a_second(
    state: TrainingState, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="trainloom"):
        view = PoolView()
        view.begin(state)
        for _ in range(100):
            view.moved(state)
        view.end(state)
    told = [record for record in caplog.records if getattr(record, "event", "") == PROGRESS]
    assert len(told) == 2
    assert told[0].key == {"training_task_md5_hash": TRAINING.key}  # type: ignore[attr-defined]
    assert Snapshot.read(told[-1].getMessage()).values["validation_accuracy"] == 0.5


def test_what_is_not_finite_can_be_told(state: TrainingState) -> None:
    state.finish_epoch(2, {"training_loss": math.nan})
    told = Snapshot.read(snapshot(state).text())
    assert told.values["training_loss"] is None
    assert json.loads(told.text())["epoch"] == 3


@pytest.mark.feature("B5")
def test_the_parent_draws_a_table_of_all_processes(state: TrainingState) -> None:
    other = TrainingState(Training("cd" * 16, "cdcdcdcd  [bold]MLP, digits.h5, SGD, seed 1", 8))
    other.begin(0, 9)
    display = PoolDisplay("none", ValueFormats(["accuracy=percent"]), 3)
    display.update(snapshot(state))
    display.update(snapshot(other))
    display.count(1, 3)
    from rich.console import Console

    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    console.print(display._frame(120))
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("abababab", "cdcdcdcd  [bold]", "2/4", "0/9", "50.00 %", "1/3"):
        assert part in drawn
    narrow = Console(file=io.StringIO(), width=60)
    narrow.print(display._frame(60))
    assert max(map(len, narrow.file.getvalue().splitlines())) <= 60  # type: ignore[attr-defined]
    display.ended(TRAINING.key)
    console.print(display._frame(120))
    assert console.file.getvalue().count("abababab") == 1  # type: ignore[attr-defined]


def test_without_a_terminal_the_parent_prints_lines_with_the_task_before_them(
    state: TrainingState, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    display = PoolDisplay("plain", PLAIN, 1)
    display.start()
    display.update(snapshot(state))
    clock.now += 11
    display.update(snapshot(state))
    display.print("done")
    display.stop()
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("abababab  epoch 2/4, training_loss 1, validation_loss 2, validation_accuracy 0.5, ")
    assert last == "done"


def test_tensorboard_files_hold_every_value_and_a_resumed_training_goes_on_in_its_own(
    state: TrainingState, tmp_path: Path
) -> None:
    for epochs_before in (0, 1):
        again = TrainingState(TRAINING)
        again.begin(epochs_before, 3)
        view = TensorboardView(tmp_path)
        view.begin(again)
        for epoch in range(epochs_before, 2 + epochs_before):
            again.finish_epoch(epoch, {"training_loss": 1.0 + epoch, "regularization_loss": 0.5})
            view.epoch(again)
        view.end(again)
        view.end(again)
    found = _scalars(tmp_path / TRAINING.key)
    assert found["loss/training"] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert found["regularization_loss"] == [(1, 0.5), (2, 0.5), (3, 0.5)]


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_that_is_missing_is_said_and_ends_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with Several(TRAINING, [TensorboardView(tmp_path)]) as reporter:
        reporter.started(0, 1)
        reporter.epoch_finished(0, {"training_loss": 1.0})
    assert caplog.text.count("install trainloom[tensorboard]") == 1


@pytest.mark.feature("B5")
def test_a_notebook_shows_one_table_that_changes(state: TrainingState, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, page: Any) -> None:
            shown.append(page.data)

    def display(page: Any, display_id: bool) -> Handle:
        shown.append(page.data)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    view = NotebookView(ValueFormats(["accuracy=percent"]), 2)
    evil = TrainingState(Training("ef" * 16, "<script>", 1))
    for drawn in (state, evil):
        view.begin(drawn)
        view.moved(drawn)
        view.epoch(drawn)
        view.end(drawn)
    first, last, *rest = shown
    assert "<progress" in first
    assert "epoch 2/4" in first
    assert "<svg" in last
    assert "2 of 4 epochs in" in last
    assert "<th>mean of 2</th>" in last
    assert "37.50 %" in last
    assert len(rest) == 2
    assert not any("<script>" in page for page in rest)


@pytest.mark.parametrize(
    ("setting", "in_pool", "names"),
    [
        ("none", False, []),
        ("none", True, []),
        ("plain", False, ["PlainView"]),
        ("terminal", False, ["TerminalView"]),
        ("notebook", False, ["NotebookView"]),
        ("auto", False, ["PlainView"]),  # standard error of a test is no terminal
        ("terminal", True, ["PoolView"]),
    ],
)
def test_the_setting_chooses_the_view(setting: Any, in_pool: bool, names: list[str]) -> None:
    views = choice.views(Settings(reporter=setting), in_pool=in_pool)
    assert [type(view).__name__ for view in views] == names


def test_tensorboard_comes_beside_any_other_view(tmp_path: Path) -> None:
    views = choice.views(Settings(reporter="none", tensorboard_dir=tmp_path), in_pool=True)
    assert [type(view).__name__ for view in views] == ["TensorboardView"]


def test_a_terminal_is_drawn_on_without_being_asked() -> None:
    assert choice.kind(Settings(), SimpleNamespace(isatty=lambda: True)) == "terminal"
    assert choice.kind(Settings(), SimpleNamespace(isatty=lambda: False)) == "plain"
    assert choice.kind(Settings(), SimpleNamespace()) == "plain"


def _rendered(frame: TerminalFrame, state: TrainingState, height: int = 30) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    console.print(frame.render(state, 100, height))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]
