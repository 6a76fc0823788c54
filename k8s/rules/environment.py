"""Variables: no secret among those that can be read, and addresses that make sense from inside a pod."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from k8s.finding import Problem
from k8s.schema import Node, below

from .pod import containers, environment
from .rule import Scene, rule

_SECRET_NAME = re.compile(
    r"(?:PASSWORD|PASSWD|_PWD|(?:^|_)(?:PASS|TOKEN|SECRET|(?:SECRET|ACCESS|PRIVATE|API)_?KEY|CREDENTIALS?))$", re.I
)
_SECRET_OPTION = re.compile(r"[?&](?:\w*password|\w*token|secret)=", re.I)
_URL = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*)://(?:(?P<user>[^/?#\s]*)@)?(?P<hosts>[^/?#\s]*)(?P<rest>\S*)")
_REFERENCE = re.compile(r"(?<!\$)\$\((\w+)\)")
_LOCAL = re.compile(r"localhost(?:\.localdomain)?|127\.\d+\.\d+\.\d+|\[?::1\]?|0\.0\.0\.0", re.I)
SECRET_CURE = "put it into a Secret and name that under `secrets`"

URLS = ("TRAINLOOM_DATABASE_URL", "TRAINLOOM_MONGO_URL")
HOSTS = ("TRAINLOOM_DATABASE_HOST", "DJ_HOST")
DATABASE = ("TRAINLOOM_DATABASE_URL", *HOSTS)
WORKER = ["trainloom", "worker"]
SETTINGS_FOLDER = "/etc/trainloom/"  # whose files hold settings too
STORE = ("TRAINLOOM_MONGO_URL", "TRAINLOOM_STORE_DIR")


@rule("ConfigMap")
def _config(node: Node, _: Scene) -> Iterator[Problem]:
    for name, value in (node.value.get("data") or {}).items():
        path = below("data", name)
        if not re.fullmatch(r"[-._A-Za-z0-9]{1,253}", name):
            yield Problem(path, "is no key of a ConfigMap", "use letters, digits, '-', '_' and '.'")
        yield from _value(path, name, value)


@rule("EnvVar")
def _variable(node: Node, _: Scene) -> Iterator[Problem]:
    if "value" in node.value and "name" in node.value:
        yield from _value(node.at("value"), node.value["name"], node.value["value"])


def _value(path: str, name: str, value: str) -> Iterator[Problem]:
    if reveals(name, value):
        yield Problem(path, "holds a secret for everyone to read who may see the manifest", SECRET_CURE)
    problem = address_problem(name, value)
    if problem:
        yield Problem(path, *problem)


def reveals(name: str, value: str) -> bool:
    """Whether a variable shows a password: by its name, or in a URL."""
    if _SECRET_NAME.search(name) and value and not _REFERENCE.fullmatch(value):
        return True
    if name in URLS:  # also where its password holds characters that should have been escaped
        user, at, _ = value.partition("://")[2].rpartition("@")
        if at and ":" in user and not _REFERENCE.search(user):
            return True
    return any(
        (":" in (found["user"] or "") and not _REFERENCE.search(found["user"])) or _SECRET_OPTION.search(found["rest"])
        for found in _URL.finditer(value)
    )


def address_problem(name: str, value: str) -> tuple[str, str] | None:
    """What keeps a pod from reaching the server at an address, and the cure; None if nothing is known."""
    if name in URLS:
        found = _URL.fullmatch(value)
        if found is None:
            return "is no URL", "write scheme://user@host:port/…, the password in a Secret"
        hosts, rest = found["hosts"].split(","), unquote(found["rest"])
        if re.search(r"[?&](?:host|unix_socket)=/", rest):
            return _socket()
    elif name in HOSTS:
        hosts = [value]
    else:
        return None
    for host in hosts:
        bare = re.sub(r":\d+$", "", unquote(host))
        if bare.startswith("/") or not bare:
            return _socket()
        if _LOCAL.fullmatch(bare):
            return f"names {bare}, which in a pod is the pod itself", "give the host's name as the cluster knows it"
    return None


def _socket() -> tuple[str, str]:
    return "names a socket, which no pod can reach", "give the host and the port that the server listens on"


@rule("Container")
def _arguments(node: Node, _: Scene) -> Iterator[Problem]:
    """`$(NAME)` is replaced before the process starts, so that everyone on the node can read it in the process list."""
    secret = {
        variable.get("name")
        for variable in node.value.get("env") or []
        if "secretKeyRef" in (variable.get("valueFrom") or {})
    }
    for field in ("command", "args"):
        for index, word in enumerate(node.value.get(field) or []):
            path = f"{node.at(field)}[{index}]"
            shown = sorted(secret & set(_REFERENCE.findall(word)))
            if shown:
                problem = f"puts {', '.join(shown)} from a Secret into the process list"
                yield Problem(path, problem, "let the program read the variable or a mounted file itself")
            if any(":" in (found["user"] or "") for found in _URL.finditer(word)) and not shown:
                yield Problem(path, "shows a URL with a password in the process list", SECRET_CURE)


@rule("PodSpec")
def _servers(node: Node, scene: Scene) -> Iterator[Problem]:
    """A worker in a pod needs servers elsewhere: none is embedded there."""
    for path, container in containers(node):
        if (container.get("command") or [])[:2] != WORKER or not _known(container, scene):
            continue
        given = {*environment(container, scene), *(item.get("name") for item in container.get("env") or [])}
        for wanted, what in ((DATABASE, "database"), (STORE, "store")):
            if not given & set(wanted):
                yield Problem(
                    f"{path}.env",
                    f"names no {what}, without which a worker in a pod ends at once",
                    f"give {wanted[0]} from a Secret, or as a setting without password",
                )


def _known(container: Mapping[str, Any], scene: Scene) -> bool:
    """Whether all settings of a container can be seen here."""
    mounted = [mount.get("mountPath", "") for mount in container.get("volumeMounts") or []]
    return not any(f"{path}/".startswith(SETTINGS_FOLDER) for path in mounted) and all(
        "configMapRef" in source and scene.config_map(source["configMapRef"].get("name", "")) is not None
        for source in container.get("envFrom") or []
    )
