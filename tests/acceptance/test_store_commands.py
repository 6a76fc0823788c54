"""`trainloom store` from the command line to the bytes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.main import main
from pipeline.store.folder import FolderStore
from tests.integration.digits_tasks import insert_tasks, train, training
from trainloom import TrainingResult, connect

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(project_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    """The store of a project with one trained task; no session is open."""
    monkeypatch.setenv("TRAINLOOM_STORE", "folder")
    monkeypatch.setenv("TRAINLOOM_STORE_DIR", str(tmp_path / "store"))
    with connect() as session:
        insert_tasks(session, training())
        train()
    return FolderStore(tmp_path / "store")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `trainloom …`; gives its exit code, output and errors, and leaves no session open."""

    def run(*argv: str) -> tuple[int, str, str]:
        from pipeline import session as door

        capsys.readouterr()
        code = main(argv)
        if door._open is not None:
            door._open.close()
        return code, *capsys.readouterr()

    return run


def put_old(store: FolderStore, content: bytes) -> str:
    """An object that was put two days ago and that no row names."""
    sha256 = store.put(content, kind="garbage").sha256
    then = time.time() - 2 * 86_400
    os.utime(store._folder(sha256) / "kind", (then, then))
    return sha256


def told(output: str) -> Any:
    return json.loads(output)


@pytest.mark.feature("S17")
def test_garbage_is_told_first_and_freed_when_asked(store: FolderStore, command: Command) -> None:
    owned = {stored.sha256 for stored in store.list()}
    old, young = put_old(store, b"old garbage"), store.put(b"young", kind="garbage").sha256
    code, output, _ = command("store", "gc", "--list")
    assert code == 0
    assert old in output
    assert young not in output
    assert "1 objects (11 B) that no row names would be freed" in output
    assert "1 objects are named by no row yet but too young to be freed" in output
    assert "`trainloom store gc --delete` frees them" in output
    assert {stored.sha256 for stored in store.list()} == owned | {old, young}

    found = told(command("store", "gc", "--delete", "--json")[1])
    assert (found["deleted"], found["freed"]) == (True, {"garbage": {"number": 1, "bytes": 11}})
    assert {stored.sha256 for stored in store.list()} == owned | {young}
    assert command("store", "gc", "--delete", "--grace", "0")[1].startswith("kind")
    assert {stored.sha256 for stored in store.list()} == owned
    code, output, _ = command("store", "verify")
    assert (code, output) == (0, f"{len(owned)} objects read, 0 damaged or gone, 0 named by rows but not there\n")


@pytest.mark.feature("T4")
def test_events_of_tasks_that_are_gone_are_told_first(store: FolderStore, command: Command) -> None:
    with connect() as session:
        kept = session.events.count()
        session.events.append("training", {"loss": 1.0}, task="0" * 32, time=datetime.now(UTC) - timedelta(days=2))
    assert kept > 0
    said = "1 events of 1 tasks that no longer exist"
    code, output, _ = command("store", "gc")
    assert (code, f"{said} would be freed" in output, "`trainloom store gc --delete`" in output) == (0, True, True)
    assert f"{said} freed" in command("store", "gc", "--delete")[1]
    assert told(command("model", "gc", "--delete", "--json")[1])["events"] == {"tasks": 0, "number": 0}
    with connect() as session:
        assert session.events.count() == kept


def test_what_is_there_is_listed_and_measured(store: FolderStore, command: Command) -> None:
    garbage = put_old(store, b"old garbage")
    stored = list(store.list())
    listed = told(command("store", "ls", "--json")[1])
    assert [(one["sha256"], one["size"], one["kind"]) for one in listed] == [
        (one.sha256, one.size, one.kind) for one in stored
    ]
    assert [one["sha256"] for one in told(command("store", "ls", "--kind", "garbage", "--json")[1])] == [garbage]
    assert len(command("store", "ls", "--limit", "2")[1].splitlines()) == 3
    usage = told(command("store", "du", "--json")[1])
    assert usage["unowned"] == {"garbage": {"number": 1, "bytes": 11}}
    assert sum(one["number"] for one in usage["owned"].values()) == len(stored) - 1
    table = command("store", "du")[1].splitlines()
    assert table[-1].split()[:2] == ["all", str(len(stored) - 1)]


def test_damage_and_loss_are_told_with_the_object_and_the_row(store: FolderStore, command: Command) -> None:
    with connect():
        weights = TrainingResult().fetch1("model_save_path")
    sha256 = weights.removeprefix("trainloom://")
    content = store._folder(sha256) / "content"
    damaged = bytearray(content.read_bytes())
    damaged[-1] ^= 1
    content.write_bytes(damaged)
    code, output, _ = command("store", "verify")
    assert code == 1
    assert f"The object {sha256} in the folder store" in output
    assert "is damaged" in output
    code, output, _ = command("store", "verify", weights, "--json")
    assert code == 1
    assert [problem["sha256"] for problem in told(output)["problems"]] == [sha256]

    store.delete(sha256)
    code, output, _ = command("store", "verify", "--json")
    assert code == 1
    assert {missing["column"] for missing in told(output)["missing"]} == {"model_save_path", "artifact_sha256"}
    assert command("store", "verify", sha256)[0] == 1
    code, output, _ = command("store", "gc")
    assert code == 0
    assert "2 rows name an object that is not there" in output


def test_what_is_no_object_is_refused(store: FolderStore, command: Command) -> None:
    code, output, error = command("store", "verify", "../../etc/passwd")
    assert (code, output) == (1, "")
    assert "is not a sha256" in error


def test_a_database_that_lost_its_rows_frees_nothing(
    store: FolderStore, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainloom import DatasetConfig, TrainingTask

    for stored in store.list():
        os.utime(store._folder(stored.sha256) / "kind", (1, 1))
    before = [stored.sha256 for stored in store.list()]
    with connect():
        TrainingTask().delete()
        DatasetConfig().delete()
    code, output, error = command("store", "gc", "--delete")
    assert (code, output) == (1, "")
    assert "names any of the" in error
    assert [stored.sha256 for stored in store.list()] == before
