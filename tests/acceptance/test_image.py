"""The image, built and run with podman. Asked for by IMAGE_TEST=1, since it takes minutes and gigabytes; it needs root,
podman with runc, and the image that the Dockerfile begins with. Options of the build, such as mirrors, are taken from
IMAGE_BUILD_OPTIONS."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/trainloom-test"
BASE = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]
BUILD = ["--isolation", "chroot", "--pull=never", "--network", "host", "--format", "docker"]
# The demonstration brings its servers along.
ARGUMENTS = ["--build-arg", "EXTRAS=demo,embedded,mysql", "--build-arg", "PACKAGES=libcurl4"]
RUN = ["--network", "host", "--read-only", "--tmpfs", "/tmp:mode=1777", "--workdir", "/tmp", "--no-healthcheck"]
LIMIT = 120.0  # s for a worker to come up
Podman = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.feature("N15")]


def lacking() -> str | None:
    """Why the image cannot be built here."""
    if os.environ.get("IMAGE_TEST", "") in ("", "0"):
        return "takes minutes and gigabytes: ask for it with IMAGE_TEST=1"
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("podman") is None or shutil.which("runc", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        return "needs podman and runc"
    if subprocess.run(["podman", "image", "exists", BASE], check=False).returncode:
        return f"needs the image {BASE}"
    return None


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    """Runs podman, which raises no limits: inside a container that is not allowed."""
    reason = lacking()
    if reason is not None:
        pytest.skip(reason)
    config = tmp_path_factory.mktemp("podman") / "containers.conf"
    config.write_text('[containers]\ndefault_ulimits = []\n[engine]\nruntime = "runc"\n')

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CONTAINERS_CONF": str(config)}
        told = subprocess.run(
            ["podman", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert told.returncode == code, told.stdout + told.stderr
        return told

    return run


@pytest.fixture(scope="module")
def image(podman: Podman) -> str:
    """The image of this working tree; it stays, so that the next build takes over its layers."""
    podman("build", *BUILD, *ARGUMENTS, *shlex.split(os.environ.get("IMAGE_BUILD_OPTIONS", "")), "--tag", IMAGE, ".")
    return IMAGE


@pytest.fixture
def worker(podman: Podman, image: str) -> Iterator[str]:
    """A container whose worker waits for tasks, with a project of its own."""
    script = "trainloom init && exec trainloom worker --watch"
    name = podman("run", "--detach", *RUN, "--entrypoint", "tini", image, "--", "sh", "-c", script).stdout.strip()
    try:
        deadline = time.monotonic() + LIMIT
        while "then waiting for more" not in (said := podman("logs", name).stdout):
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
        yield name
    finally:
        podman("rm", "--force", "--time", "0", name)


def test_the_demonstration_runs_with_a_read_only_root(podman: Podman, image: str) -> None:
    told = podman("run", "--rm", *RUN, "--shm-size", "256m", image, "demo")
    assert re.search(r"^8/8 ", told.stdout, re.MULTILINE), told.stdout + told.stderr
    assert "objects are kept in a folder" not in told.stderr, "the embedded MongoDB runs"


def test_it_is_not_root_and_finds_nothing_that_it_may_write_but_what_it_is_given(podman: Podman, image: str) -> None:
    script = "id -u; find / -xdev -writable -not -path '/proc/*' -type d 2>/dev/null | sort"
    told = podman("run", "--rm", *RUN, "--entrypoint", "sh", image, "-c", script)
    uid, *writable = told.stdout.splitlines()
    assert uid == "10001"
    assert set(writable) <= {"/tmp", "/var/tmp"}


def test_the_probe_sees_the_worker_and_sigterm_reaches_it(podman: Podman, worker: str) -> None:
    told = podman("exec", worker, "python", "-m", "pipeline.liveness")
    assert told.stdout.startswith("the worker showed life ")
    podman("stop", "--time", "60", worker)
    assert podman("inspect", "--format", "{{.State.ExitCode}}", worker).stdout.strip() == "143"


def test_it_refuses_to_be_a_worker_without_servers(podman: Podman, image: str) -> None:
    podman("run", "--rm", *RUN, image, code=78)


def test_only_named_paths_enter_a_build(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    podman("build", *BUILD, "--tag", f"{IMAGE}-context", "--file", str(tmp_path / "Dockerfile"), ".")
    try:
        root = Path(podman("image", "mount", f"{IMAGE}-context").stdout.strip())
        allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        assert {path.name for path in root.iterdir()} == allowed
        assert [*root.rglob("__pycache__")] == [*root.rglob("*.pyc")] == []
        podman("image", "unmount", f"{IMAGE}-context")
    finally:
        podman("rmi", "--force", f"{IMAGE}-context")
