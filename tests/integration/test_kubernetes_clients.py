"""The versions of the Kubernetes client that may be installed, each with all of `test_kubernetes_api.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What each wants otherwise than constraints.txt has it; the rest is taken from the environment of the tests.
CLIENTS = {
    "34.1.0": (
        *("urllib3==2.3.0", "google-auth==2.40.3", "cachetools==5.5.2", "rsa==4.9.1", "pyasn1==0.6.5"),
        *("pyasn1_modules==0.4.2", "six==1.17.0"),
    ),
    "36.0.3": ("six==1.17.0",),
}


def installed(version: str, folder: Path) -> dict[str, str]:
    """An environment in which that version comes first."""
    wanted = [f"kubernetes=={version}", *CLIENTS[version]]
    told = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        pytest.skip(f"pip could not install the Kubernetes client {version}: {told.stderr.strip().splitlines()[-1]}")
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.mark.slow
@pytest.mark.parametrize("version", CLIENTS)
def test_every_version_of_the_client_serves(version: str, tmp_path: Path) -> None:
    env = installed(version, tmp_path / "client")
    used = [sys.executable, "-c", "import kubernetes; print(kubernetes.__version__)"]
    assert subprocess.run(used, capture_output=True, text=True, check=True, env=env).stdout.strip() == version
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--basetemp"]
    place = [str(tmp_path / "t"), "tests/integration/test_kubernetes_api.py"]
    told = subprocess.run([*tests, *place], capture_output=True, text=True, check=False, env=env, cwd=ROOT)
    assert told.returncode == 0, told.stdout
