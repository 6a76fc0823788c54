"""The example of a training on several nodes: its command, run once for each node on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "kubernetes" / "multi_node"


@pytest.mark.slow
def test_two_nodes_train_the_digits_together(tmp_path: Path) -> None:
    job = list(yaml.safe_load_all((EXAMPLE / "manifest.yaml").read_text(encoding="utf-8")))[-1]
    (worker,) = job["spec"]["template"]["spec"]["containers"]
    torchrun, *options = worker["command"]
    script, *arguments = worker["args"]
    assert (torchrun, Path(script).name) == ("torchrun", "train.py")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    local = {"--nproc-per-node": "1", "--rdzv-endpoint": f"127.0.0.1:{port}"}
    options = [f"{name}={local.get(name, value)}" for name, _, value in (option.partition("=") for option in options)]
    arguments = [str(tmp_path) if argument == "/results" else argument for argument in arguments]
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(EXAMPLE / "train.py"), *arguments]
    nodes = [
        subprocess.Popen(
            [*command, "--epochs", "2"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(job["spec"]["completions"])
    ]
    try:
        told = [node.communicate(timeout=240)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    assert [node.returncode for node in nodes] == [0, 0], told
    assert sum("accuracy 0." in text for text in told) == 1
    assert (tmp_path / "digits.safetensors").exists()
