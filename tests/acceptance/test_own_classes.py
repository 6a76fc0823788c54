"""The example of classes of one's own, from its folder through the command line to results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_classes"


@pytest.fixture
def trainloom(project_environment: dict[str, str], tmp_path: Path) -> Any:
    """Runs the command in a copy of the example, with the settings of the folder instead of the tests' own."""
    folder = shutil.copytree(EXAMPLE, tmp_path / "example", ignore=shutil.ignore_patterns("__pycache__", ".trainloom"))
    environment = {name: value for name, value in os.environ.items() if name != "TRAINLOOM_DATASET_DIR"}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "trainloom", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.feature("S8", "S10", "S11", "S12")
@pytest.mark.slow
def test_the_example_trains_with_its_own_dataset_sampler_model_and_trainer(trainloom: Any) -> None:
    inserted = json.loads(trainloom("insert", "configs.yaml", "--json"))
    assert {section: len(rows["keys"]) for section, rows in inserted.items()} == {
        "datasets": 2,
        "models": 2,
        "trainings": 2,
        "tasks": 9,
    }
    trainloom("worker")
    results = json.loads(trainloom("results", "--sort", "accuracy", "--json"))
    assert len(results) == 9
    assert results[0]["accuracy"] >= 0.9
    assert {result["model"] for result in results} == {"ScaledMLP"}
    assert json.loads(trainloom("insert", "configs.yaml", "--json"))["tasks"]["new"] == 0
