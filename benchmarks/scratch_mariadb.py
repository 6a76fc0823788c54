"""A MariaDB server in a temporary folder, for as long as a benchmark runs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql

SERVER = shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin")
"""The server's program; None where it is not installed."""


@contextmanager
def scratch_mariadb() -> Iterator[str]:
    """The URL of an empty server on a loopback port; the folder is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tl-bench-maria-", dir="/tmp") as folder:
        common = ["--no-defaults", f"--datadir={folder}/data"]
        install = ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        address = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/s"]
        with open(Path(folder, "log"), "wb") as log:
            server = subprocess.Popen(
                [str(SERVER), *common, *address, "--character-set-server=utf8mb4", "--user=root"],
                stdout=log,
                stderr=log,
            )
        try:
            _await(server, port, Path(folder, "log"))
            yield f"mysql://root@127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()


def _await(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return when the server answers; raise with its log when it ends."""
    while True:
        try:
            pymysql.connect(host="127.0.0.1", port=port, user="root", password="").close()
            return
        except pymysql.OperationalError as error:
            try:
                server.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            raise RuntimeError(log.read_text(encoding="utf-8", errors="replace")) from error
