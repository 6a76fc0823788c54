"""What is recorded of the code that makes a result."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline import provenance
from pipeline.provenance import git_asked, git_state
from trainers.nn_trainer import NNTrainer


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit of one file."""
    git(tmp_path, "init")
    (tmp_path / "model.py").write_text("layers = 1\n")
    git(tmp_path, "add", "model.py")
    git(tmp_path, "commit", "-m", "A model")
    return tmp_path


def test_a_clean_tree_is_its_commit(repository: Path) -> None:
    (repository / "notes.txt").write_text("git does not know this file\n")
    assert git_state(repository) == (git(repository, "rev-parse", "HEAD"), "no")


@pytest.mark.parametrize("staged", [False, True])
def test_an_edited_tree_is_dirty(repository: Path, staged: bool) -> None:
    (repository / "model.py").write_text("layers = 2\n")
    if staged:
        git(repository, "add", "model.py")
    assert git_state(repository) == (git(repository, "rev-parse", "HEAD"), "yes")


def test_without_a_commit_nothing_is_known(tmp_path: Path) -> None:
    assert git_state(tmp_path / "missing") == ("", "unknown")
    git(tmp_path, "init")
    assert git_state(tmp_path) == ("", "unknown")


def test_git_can_be_asked_meanwhile(repository: Path) -> None:
    with git_asked(repository) as answer:
        assert answer() == git_state(repository)


def test_all_that_a_trainer_of_ours_is_made_of_is_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = {"trainer": NNTrainer, "dataset": dict}
    before = provenance.code_digest(classes)
    assert provenance.code_digest(classes) == before
    monkeypatch.setattr(
        provenance,
        "_read",
        lambda file, *_: Path(file).read_text(encoding="utf-8") + ("# changed" if "learning_rate" in file else ""),
    )
    assert provenance.code_digest(classes) != before
