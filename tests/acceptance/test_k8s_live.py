"""A real cluster, where somebody lends one: LIVE_KUBECONFIG names a kube-config whose context may be used for this.

LIVE_KUBERNETES_IMAGE is a small image with a shell that the cluster can fetch.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.cli.main import main

KUBECONFIG = os.environ.get("LIVE_KUBECONFIG", "")
IMAGE = os.environ.get("LIVE_KUBERNETES_IMAGE", "docker.io/library/busybox:1.37")
LIMIT = 900.0  # s, for nodes to fetch the image and run it

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(LIMIT),
    pytest.mark.skipif(not KUBECONFIG, reason="no cluster: LIVE_KUBECONFIG names no kube-config"),
]


@pytest.fixture
def values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    """A values file of two small workers; what was made is deleted at the end. Its name is that of the workers."""
    monkeypatch.setenv("KUBECONFIG", KUBECONFIG)
    monkeypatch.chdir(tmp_path)
    name = f"trainloom-test-{uuid.uuid4().hex[:6]}"
    worker = {"workers": 2, "cpus": "100m", "memory": "64Mi", "shm": "1Mi", "tmp": "1Mi", "scratch": "1Mi"}
    worker |= {"command": ["sh", "-c", "echo trained $JOB_COMPLETION_INDEX"], "liveness": False}
    content = {"name": name, "image": IMAGE, "secrets": [], "worker": worker}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(content))
    yield name
    main(["k8s", "delete", "--name", name])


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints."""
    capsys.readouterr()
    assert main(["k8s", *arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_server_takes_every_object(values: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the server would take all of it" in told(capsys, "submit", "-f", "values.yaml", "--dry-run")


def test_a_job_runs_to_its_end(values: str, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "submit", "-f", "values.yaml")
    lines = told(capsys, "logs", "-f", "--name", values).splitlines()  # until the Job has ended
    assert sorted(line.partition("] ")[2] for line in lines) == ["trained 0", "trained 1"]
    (job,) = json.loads(told(capsys, "status", "--name", values, "--json"))["jobs"]
    assert (job["state"], job["done"], job["failed"]) == ("Complete", 2, 0)
