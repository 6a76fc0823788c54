"""`trainloom store gc` after processes that were killed in the middle of an upload."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.main import main
from pipeline.session import connect
from tests.integration.digits_tasks import insert_tasks, training

MIB = 1 << 20
PROGRAM = """
import sys
from tests.contracts.store_process import put_halted
from trainloom import connect
with connect(create_home=False) as session:
    print(put_halted(session.store, sys.argv[1], sys.argv[2]), flush=True)
"""


@pytest.fixture(params=["gridfs", "folder"], autouse=True)
def store_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRAINLOOM_STORE", request.param)
    monkeypatch.setenv("TRAINLOOM_STORE_DIR", str(tmp_path / "store"))


@pytest.fixture
def collected(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs `trainloom store gc`; gives what it says."""

    def run(grace: float, *more: str) -> Any:
        capsys.readouterr()
        assert main(["store", "gc", "--json", "--grace", str(grace), *more]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def kill_at(point: str, path: Path) -> None:
    """Let a process begin to store a file, and kill it at a point of that."""
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), point],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as uploader:
        assert uploader.stdout is not None
        assert uploader.stdout.readline() == "halted\n"
        uploader.kill()


@pytest.mark.feature("S17")
@pytest.mark.parametrize("point", ["halfway", "unpublished", "published"])
def test_what_a_killed_upload_leaves_is_swept_after_the_grace_and_not_before(
    project_environment: dict[str, str], collected: Callable[..., Any], tmp_path: Path, point: str
) -> None:
    path = tmp_path / "content"
    path.write_bytes(os.urandom(20 * MIB))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with connect() as session:
        insert_tasks(session, training())
        owned = {stored.sha256 for stored in session.store.list()}
    kill_at(point, path)
    with connect() as session:
        assert {stored.sha256 for stored in session.store.list()} == owned | (
            {sha256} if point == "published" else set()
        )

    spared = collected(3600, "--delete")
    assert (spared["freed"], spared["unfinished"]["number"]) == ({}, 0)
    for delete in ([], ["--delete"]):  # told first, without any change
        found = collected(0, *delete)
        if point == "published":
            assert found["freed"] == {"": {"number": 1, "bytes": 20 * MIB}}
        else:
            assert found["unfinished"]["number"] == 1
            assert 0 < found["unfinished"]["bytes"] <= 20 * MIB + 100
    assert (collected(0)["freed"], collected(0)["unfinished"]["number"]) == ({}, 0)
    with connect() as session:
        assert {stored.sha256 for stored in session.store.list()} == owned
        assert session.store.put(path).sha256 == sha256
        assert session.store.get_bytes(sha256) == path.read_bytes()
