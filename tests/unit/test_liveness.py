"""The progress file of a worker and the probe that reads it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import life_sign, liveness, progress_file
from pipeline.errors import ConfigurationError
from pipeline.life_sign import Silence
from pipeline.progress_file import ProgressFile
from pipeline.settings import Settings


def probe(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What kubelet runs."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.liveness", *arguments],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that all of them see; its only item may be changed."""
    now = [1000.0]
    for module in (progress_file, life_sign):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_worker_that_gets_on_lives(tmp_path: Path) -> None:
    ProgressFile(tmp_path / "new" / "progress", 60)
    told = probe(TRAINLOOM_PROGRESS_FILE=str(tmp_path / "new" / "progress"))
    assert (told.returncode, told.stderr) == (0, "")
    assert re.fullmatch(r"the worker showed life \d+ s ago\n", told.stdout)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["progress"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no progress file {path}: no worker has started here"),
        ("", "the progress file {path} cannot be read: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "the progress file {path} cannot be read: {path} is no progress file"),
        ('{"life": 1e12, "limit": 1}', "the progress file {path} was written before this machine started"),
    ],
)
def test_without_a_file_of_a_worker_nothing_lives(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "progress"
    if content is not None:
        path.write_text(content)
    told = probe(str(path))
    assert (told.returncode, told.stdout, told.stderr) == (1, "", sentence.format(path=path) + "\n")


def test_the_probe_says_which_variable_names_the_file() -> None:
    told = probe()
    assert (told.returncode, told.stderr) == (1, "no progress file is named; set TRAINLOOM_PROGRESS_FILE\n")


def test_the_probe_imports_nothing_that_takes_time() -> None:
    code = "import sys, pipeline.liveness; print({'torch', 'datajoint', 'pydantic', 'yaml'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_a_worker_that_shows_no_life_for_too_long_is_stuck(tmp_path: Path, clock: list[float]) -> None:
    file = ProgressFile(tmp_path / "progress", 60)
    clock[0] += 60
    assert liveness.check(tmp_path / "progress") == (True, "the worker showed life 60 s ago")
    clock[0] += 1
    assert liveness.check(tmp_path / "progress") == (
        False,
        "the worker has shown no life for 61 s; the limit is 60 s",
    )
    file.show_life()
    assert liveness.check(tmp_path / "progress")[0]
    clock[0] += progress_file.PERIOD
    file.show_life(silent=61)
    assert not liveness.check(tmp_path / "progress")[0]


def test_a_file_that_cannot_be_written_any_more_ends_no_worker(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    file = ProgressFile(tmp_path / "new" / "progress", 60)
    (tmp_path / "new" / "progress").unlink()
    (tmp_path / "new").rmdir()
    for _ in range(2):
        clock[0] += progress_file.PERIOD
        file.show_life()
    assert [record.message for record in caplog.records] == [
        f"the progress file {tmp_path}/new/progress cannot be written: No such file or directory"
    ]


def test_a_place_for_the_file_that_cannot_be_written_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="set TRAINLOOM_PROGRESS_FILE to a path where this worker may write"):
        progress_file.opened(Settings(progress_file=tmp_path / "file" / "progress"))
    assert progress_file.opened(Settings()) is None


def test_who_looks_at_the_queue_seldom_is_not_stuck() -> None:
    assert progress_file.stall_limit(Settings(stall_seconds=60, poll_seconds=100)) == 200
    assert progress_file.stall_limit(Settings(stall_seconds=1800)) == 1800


def test_silence_is_counted_by_looks_so_that_a_suspended_machine_is_not_taken_for_stuck(clock: list[float]) -> None:
    sign = SimpleNamespace(shown=0)
    silence = Silence(sign)
    for _ in range(3):
        clock[0] += 1
        silence.look()
    assert (silence.seconds, silence.unbroken) == (3.0, True)
    sign.shown = 1
    silence.look()
    assert (silence.seconds, silence.unbroken) == (0.0, False)
    clock[0] += 3600
    silence.look()
    assert silence.seconds == Silence.LONGEST_PAUSE
