"""What enters an image, and what the files say that build and start it."""

from __future__ import annotations

import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from pipeline.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
RULES = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
COPIED = {
    source for sources in re.findall(r"^COPY ((?!--).+) \S+$", DOCKERFILE, re.MULTILINE) for source in sources.split()
}


def enters(path: str) -> bool:
    """Whether a file of this folder enters a build: the last rule that matches it or a folder above it decides."""
    admitted = True
    for rule in RULES:
        pattern = rule.removeprefix("!").removeprefix("**/")
        parts = [PurePosixPath(path), *PurePosixPath(path).parents]
        names = [part.name for part in parts] if "**/" in rule else [str(part) for part in parts if part.name]
        if any(fnmatch(name, pattern) and "/" not in name for name in names):
            admitted = rule.startswith("!")
    return admitted


@pytest.mark.feature("N15")
def test_only_what_the_image_is_made_of_enters_a_build() -> None:
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    assert {PurePosixPath(path).parts[0] for path in tracked if enters(path)} == COPIED
    assert [path for path in tracked if PurePosixPath(path).parts[0] in COPIED and not enters(path)] == []


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        "secrets/database_password",
        "trainloom.d/lab.yaml",
        ".trainloom/home.json",
        ".venv/bin/python",
        "tests/conftest.py",
        "notes.txt",
        "pipeline/__pycache__/pod.cpython-311.pyc",
        "pipeline/pod.pyc",
    ],
)
def test_nothing_else_enters_a_build(path: str) -> None:
    assert not enters(path)


def test_the_image_runs_as_a_number_and_is_looked_after_by_the_probe() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", final, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .* CMD \["python", "-m", "pipeline.liveness"\]$', final, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["tini", "--", "trainloom"\]$', final, re.MULTILINE)
    settings = set(re.findall(r"\b(TRAINLOOM_\w+)=", final))
    assert settings == {"TRAINLOOM_PROGRESS_FILE"}, "others would come before the files in /etc/trainloom"


def test_compose_names_settings_that_exist_and_no_secret() -> None:
    services = COMPOSE["services"]
    for name in ("worker", "worker-gpu"):
        variables = services[name]["environment"]
        assert {variable.removeprefix("TRAINLOOM_").lower() for variable in variables} <= set(Settings.model_fields)
        assert services[name]["read_only"] and services[name]["cap_drop"] == ["ALL"]
        grace = int(variables["TRAINLOOM_GRACE_SECONDS"])
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > grace
    given = [
        value for service in services.values() for item in service.get("environment", {}).items() for value in item
    ]
    assert [text for text in given if "password" in text.lower() and not text.endswith(("_FILE", "_password"))] == []
    assert {
        name: service["healthcheck"]["test"][1] for name, service in services.items() if "healthcheck" in service
    } == {
        "postgres": "pg_isready",
        "mongo": "mongosh",
    }
    assert all(secret["file"].startswith("secrets/") for secret in COMPOSE["secrets"].values())


def test_compose_is_valid() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker compose here")
    command = [docker, "compose", "--profile", "gpu", "config", "--quiet"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
