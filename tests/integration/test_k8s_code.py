"""Code from a Git repository: the script of the init container, run with a real Git against a server that asks for a
password."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from k8s import code
from k8s.render import render
from k8s.values import Values

GIT = shutil.which("git")
pytestmark = pytest.mark.skipif(GIT is None, reason="no git")
USER, PASSWORD = "robot", r"s3cr3t-\token\n%s"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


class GitServer(BaseHTTPRequestHandler):
    """Hands requests to `git http-backend` where user and password are right."""

    root: ClassVar[Path]
    asked: ClassVar[list[str | None]]

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.asked.append(self.headers["Authorization"])
        if self.asked[-1] != "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        env = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """The address of a repository and its commits, the oldest first."""
    root = tmp_path_factory.mktemp("served")
    repository = root / "lab.git"
    git(root, "init", "--quiet", "--initial-branch=main", str(repository))
    commits = []
    for number in range(3):
        (repository / "lab.py").write_text(f"NUMBER = {number}\n")
        git(repository, "add", ".")
        git(repository, "commit", "--quiet", "-m", f"Number {number}")
        commits.append(git(repository, "rev-parse", "HEAD"))
    GitServer.root, GitServer.asked = root, []
    with ThreadingHTTPServer(("127.0.0.1", 0), GitServer) as started:
        thread = threading.Thread(target=started.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{started.server_port}/lab.git/.git", commits
        started.shutdown()
        thread.join()


def rendered(**given: str) -> list[dict[str, Any]]:
    """The objects of workers whose code is in a private repository."""
    fetched = {"source": "git", "repository": "https://git.example.org/lab.git", "commit": "0" * 40, "image": "git:1"}
    return render(Values.load(None, {"image": "a:1", "code": {**fetched, "secret": "robot", **given}}))


class Fetched:
    """What the init container's script left behind."""

    def __init__(
        self, folder: Path, repository: str, commit: str, credentials: dict[str, str], **variables: str
    ) -> None:
        self.folder = folder / "code"
        self.log = folder / "processes"
        secret, tools = folder / "secret", folder / "bin"
        if credentials:
            secret.mkdir()
            for name, value in credentials.items():
                (secret / name).write_text(value)
        tools.mkdir()
        watched = tools / "git"
        watched.write_text(f'#!/bin/sh\necho "$@" >> {self.log}\nenv >> {self.log}\nexec {GIT} "$@"\n')
        watched.chmod(0o755)
        (init,) = rendered()[-1]["spec"]["template"]["spec"]["initContainers"]
        *shell, script = init["command"]
        script = script.replace(code.REPOSITORY, str(self.folder)).replace(code.SECRET_FOLDER, str(secret))
        given = {item["name"]: item["value"] for item in init["env"]}
        env = {**given, "HOME": str(folder), "CODE_REPOSITORY": repository, "CODE_COMMIT": commit, **variables}
        env["PATH"] = f"{tools}:{os.environ['PATH']}"
        self.done = subprocess.run([*shell, script], env=env, capture_output=True, text=True, check=False)

    @property
    def shown(self) -> str:
        """What others can see: output, arguments and variables of processes, and what is left on the disk."""
        left = [path.read_bytes().decode(errors="replace") for path in self.folder.rglob("*") if path.is_file()]
        return "\n".join([self.done.stdout, self.done.stderr, self.log.read_text(), *left])


def test_a_commit_that_is_no_tip_is_fetched_with_a_password_that_nobody_sees(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    address, commits = server
    fetched = Fetched(tmp_path, address, commits[1], {"username": USER, "password": PASSWORD})
    assert fetched.done.returncode == 0, fetched.done.stderr
    assert (fetched.folder / "lab.py").read_text() == "NUMBER = 1\n"
    assert git(fetched.folder, "rev-parse", "HEAD") == commits[1]
    assert f"fetched {commits[1]}" in fetched.done.stdout
    assert PASSWORD not in fetched.shown


@pytest.mark.parametrize("credentials", [{}, {"username": USER, "password": "wrong"}])
def test_without_the_right_password_the_pod_fails_and_does_not_ask(
    tmp_path: Path, server: tuple[str, list[str]], credentials: dict[str, str]
) -> None:
    address, commits = server
    fetched = Fetched(tmp_path, address, commits[2], credentials)
    assert fetched.done.returncode != 0
    assert not (fetched.folder / "lab.py").exists()
    assert PASSWORD not in fetched.shown


def test_a_commit_that_is_not_there_fails(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    fetched = Fetched(tmp_path, server[0], "f" * 40, {"username": USER, "password": PASSWORD})
    assert fetched.done.returncode != 0
    assert not (fetched.folder / "lab.py").exists()


def test_a_server_that_does_not_answer_is_given_up_and_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/lab.git"
        fetched = Fetched(tmp_path, address, "f" * 40, {}, CODE_FETCH_SECONDS="1")
    assert fetched.done.returncode == 1
    assert fetched.done.stderr == f"{address} did not give the code within 1 s; see whether pods reach that server\n"
    commands = fetched.log.read_text().splitlines()
    assert len([line for line in commands if line.startswith("fetch ")]) == 1


def test_what_git_said_stays_with_a_pod_that_failed() -> None:
    (init,) = rendered()[-1]["spec"]["template"]["spec"]["initContainers"]
    assert init["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_credentials_are_a_mounted_secret_and_only_the_init_container_sees_them() -> None:
    objects = rendered(username_key="GITHUB_USERNAME", password_key="GITHUB_PASSWORD")
    spec = objects[-1]["spec"]["template"]["spec"]
    (init,), (worker,) = spec["initContainers"], spec["containers"]
    volume = next(item for item in spec["volumes"] if item["name"] == code.SECRET_VOLUME)
    assert volume["secret"]["items"] == [
        {"key": "GITHUB_USERNAME", "path": "username"},
        {"key": "GITHUB_PASSWORD", "path": "password"},
    ]
    assert code.SECRET_VOLUME in [item["name"] for item in init["volumeMounts"]]
    assert code.SECRET_VOLUME not in [item["name"] for item in worker["volumeMounts"]]
    assert not any("secretKeyRef" in str(item) for item in init["env"])
    example = next(item for item in objects if item["metadata"]["name"] == "robot-example")
    assert sorted(example["stringData"]) == ["GITHUB_PASSWORD", "GITHUB_USERNAME"]
    assert objects[0]["data"]["TRAINLOOM_CODE_DIR"] == code.REPOSITORY
