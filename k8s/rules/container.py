"""Containers: image, command, variables, mounts, probes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from k8s import names
from k8s.finding import Problem
from k8s.schema import Node

from .rule import Scene, repeated, rule

# https://github.com/distribution/reference: [host[:port]/]path[:tag][@digest]
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::\d+)?/)?{_PART}(?:/{_PART})*(?P<tag>:\w[\w.-]{{0,127}})?(?P<digest>@sha256:[0-9a-f]{{64}})?"
)
_SHELLS = re.compile(r"(?:/(?:usr/)?bin/)?(?:ba|da|z)?sh")
HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")


@rule("Container")
def _image(node: Node, _: Scene) -> Iterator[Problem]:
    image = node.value.get("image")
    if not image:
        yield Problem(node.at("image"), "is missing", "name the image, best with its digest")
        return
    found = _IMAGE.fullmatch(image)
    if found is None:
        yield Problem(
            node.at("image"), f"{image!r} names no image", "write registry/name:tag or registry/name@sha256:…"
        )
    elif not found["digest"] and found["tag"] in (None, ":latest"):
        yield Problem(
            node.at("image"),
            f"{image} may be another image tomorrow, and then pods of one Job run different code",
            "name a digest (name@sha256:…) or at least a version",
            "warning",
        )


@rule("Container")
def _command(node: Node, _: Scene) -> Iterator[Problem]:
    """A shell that is process 1 does not hand on SIGTERM; what it started is killed without having saved."""
    words = [*(node.value.get("command") or []), *(node.value.get("args") or [])]
    if len(words) < 3 or not _SHELLS.fullmatch(words[0]) or not re.fullmatch(r"-\w*c", words[1]):
        return
    last = re.split(r"&&|\|\||;|\n", words[2].strip())[-1].strip()
    if not last.startswith("exec ") and "containers" in node.path.rpartition(".")[2]:
        yield Problem(
            node.at("args" if node.value.get("args") else "command"),
            "is run by a shell, which gets the SIGTERM that the worker should get in order to save",
            "write `exec` before the last command",
            "warning",
        )


@rule("Container")
def _variables(node: Node, _: Scene) -> Iterator[Problem]:
    for index, name in repeated(node.value.get("env") or [], "name"):
        problem = f"is {name}, which was set before: the last one counts"
        yield Problem(f"{node.at('env')}[{index}].name", problem, "remove one", "warning")


@rule("EnvVar")
def _variable(node: Node, _: Scene) -> Iterator[Problem]:
    name = node.value.get("name")
    if "value" in node.value and "valueFrom" in node.value:
        yield Problem(node.path, f"{name} has both value and valueFrom", "keep one of them")
    if name is not None and not names.is_variable(name):
        if not name or "=" in name:
            yield Problem(node.at("name"), f"{name!r} is no variable", "use letters, digits and underscores")
        else:
            cure = "use letters, digits and underscores"
            yield Problem(node.at("name"), f"{name!r} cannot be read by shells", cure, "warning")


@rule("EnvVarSource")
def _source(node: Node, _: Scene) -> Iterator[Problem]:
    if len(node.value) != 1:
        yield Problem(node.path, "needs one source", "give secretKeyRef, configMapKeyRef, fieldRef or resourceFieldRef")


@rule("SecretKeySelector", "ConfigMapKeySelector", "SecretEnvSource", "ConfigMapEnvSource")
def _reference(node: Node, _: Scene) -> Iterator[Problem]:
    if not node.value.get("name"):
        yield Problem(node.at("name"), "is missing", "name the object that is read")


@rule("VolumeMount")
def _mount(node: Node, _: Scene) -> Iterator[Problem]:
    path = node.value.get("mountPath", "/")
    if ":" in path:
        yield Problem(node.at("mountPath"), f"{path!r} holds a colon", "mount it elsewhere")
    elif not path.startswith("/"):
        yield Problem(node.at("mountPath"), f"{path!r} is relative to nothing", "begin it with /", "warning")
    for part in ("subPath", "subPathExpr"):
        inside = node.value.get(part, "")
        if inside.startswith("/") or ".." in inside.split("/"):
            yield Problem(node.at(part), f"{inside!r} leads out of the volume", "give a path within it")
    if "subPath" in node.value and "subPathExpr" in node.value:
        yield Problem(node.at("subPath"), "is given beside subPathExpr", "keep one of them")


@rule("Probe")
def _probe(node: Node, _: Scene) -> Iterator[Problem]:
    given = [handler for handler in HANDLERS if handler in node.value]
    if len(given) != 1:
        yield Problem(node.path, "needs one way to ask", f"give one of {', '.join(HANDLERS)}")
    if node.path.endswith(("livenessProbe", "startupProbe")) and node.value.get("successThreshold", 1) != 1:
        yield Problem(node.at("successThreshold"), f"is {node.value['successThreshold']}", "it must be 1 here")
