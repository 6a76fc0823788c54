"""Jobs: completion, limits of failures, and what a failure means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from k8s import labels, names
from k8s.finding import Problem
from k8s.schema import Node

from .rule import Scene, rule

RULES_MAX = 20
INDEXED = "Indexed"


@rule("Job")
def _pod_names(node: Node, _: Scene) -> Iterator[Problem]:
    """An Indexed pod's host name is the Job's name, a hyphen and the index."""
    name, spec = (node.value.get("metadata") or {}).get("name", ""), node.value.get("spec") or {}
    last = max(spec.get("completions", 1) - 1, 0)
    longest = names.LABEL_MAX - len(f"-{last}")
    if spec.get("completionMode") == INDEXED and longest < len(name) <= names.LABEL_MAX:
        yield Problem(
            "metadata.name",
            f"is {len(name)} characters long, and with the last index, -{last}, more than {names.LABEL_MAX}",
            f"shorten it to {longest} characters",
        )


@rule("ScaledJob")
def _scaled_names(node: Node, _: Scene) -> Iterator[Problem]:
    """KEDA adds five random characters for the Job, and that adds its index."""
    name = (node.value.get("metadata") or {}).get("name", "")
    longest = names.LABEL_MAX - len("-12345-0")
    if len(name) > longest:
        cure = f"shorten it to {longest} characters"
        yield Problem("metadata.name", f"is {len(name)} characters long, too long for the names of its Jobs", cure)


@rule("Job")
def _queue(node: Node, _: Scene) -> Iterator[Problem]:
    queue = ((node.value.get("metadata") or {}).get("labels") or {}).get(labels.QUEUE)
    if queue and not (node.value.get("spec") or {}).get("suspend"):
        yield Problem(
            "spec.suspend",
            f"is not true although the queue {queue} is to start the Job",
            "set it, or pods may start before the queue admits them",
            "warning",
        )


@rule("JobSpec")
def _completion(node: Node, _: Scene) -> Iterator[Problem]:
    spec = node.value
    indexed = spec.get("completionMode") == INDEXED
    if indexed and "completions" not in spec:
        yield Problem(node.at("completions"), "is missing, and an Indexed Job needs it", "give the number of workers")
    for field in ("backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"):
        if field in spec and not indexed:
            yield Problem(node.at(field), "needs an Indexed Job", "set completionMode: Indexed, or remove it")
    if indexed and "maxFailedIndexes" in spec and "backoffLimitPerIndex" not in spec:
        yield Problem(node.at("maxFailedIndexes"), "needs backoffLimitPerIndex", "give both or neither")
    if spec.get("maxFailedIndexes", 0) > spec.get("completions", 2**31):
        yield Problem(
            node.at("maxFailedIndexes"),
            f"is {spec['maxFailedIndexes']}, more than the {spec['completions']} completions",
            f"lower it to {spec['completions']} at most",
        )
    if not indexed and spec.get("parallelism", 1) > 1:
        yield from _work_queue(node)


def _work_queue(node: Node) -> Iterator[Problem]:
    """Several pods without indexes share one limit of failures, and the first success may stop all replacements."""
    workers = node.value["parallelism"]
    if "completions" not in node.value:
        yield Problem(
            node.at("completions"),
            f"is missing, so that after the first of the {workers} workers has finished none that fails is replaced",
            "set completionMode: Indexed and completions to the number of workers",
            "warning",
        )
    limit = node.value.get("backoffLimit", 6)
    yield Problem(
        node.at("backoffLimit"),
        f"is {limit} for {workers} workers together, and the failure after that ends the healthy ones too",
        "set completionMode: Indexed and backoffLimitPerIndex",
        "warning",
    )


@rule("JobSpec")
def _restart(node: Node, _: Scene) -> Iterator[Problem]:
    pod = (node.value.get("template") or {}).get("spec") or {}
    path, policy = node.at("template", "spec", "restartPolicy"), pod.get("restartPolicy")
    if policy is None:
        yield Problem(path, "is missing", "a Job's pods need restartPolicy: Never")
    elif policy == "Always":
        yield Problem(path, "is Always, which a Job does not take", "set restartPolicy: Never")
    elif policy != "Never" and "podFailurePolicy" in node.value:
        yield Problem(path, f"is {policy}, with which there is no podFailurePolicy", "set restartPolicy: Never")
    elif policy != "Never" and "backoffLimitPerIndex" in node.value:
        yield Problem(path, f"is {policy}, with which there is no backoffLimitPerIndex", "set restartPolicy: Never")
    if "podFailurePolicy" in node.value and node.value.get("podReplacementPolicy") == "TerminatingOrFailed":
        yield Problem(
            node.at("podReplacementPolicy"),
            "is TerminatingOrFailed, with which there is no podFailurePolicy",
            "set podReplacementPolicy: Failed",
        )


@rule("JobSpec")
def _failure_policy(node: Node, _: Scene) -> Iterator[Problem]:
    rules = (node.value.get("podFailurePolicy") or {}).get("rules") or []
    pod = (node.value.get("template") or {}).get("spec") or {}
    present = [item.get("name") for field in ("containers", "initContainers") for item in pod.get(field) or []]
    path = node.at("podFailurePolicy", "rules")
    if len(rules) > RULES_MAX:
        yield Problem(path, f"has {len(rules)} rules", f"{RULES_MAX} are taken at most")
    for index, given in enumerate(rules):
        where = f"{path}[{index}]"
        if ("onExitCodes" in given) == bool(given.get("onPodConditions")):
            yield Problem(where, "needs onExitCodes or onPodConditions, and not both", "give one of them")
        if given.get("action") == "FailIndex" and "backoffLimitPerIndex" not in node.value:
            yield Problem(f"{where}.action", "is FailIndex without backoffLimitPerIndex", "set backoffLimitPerIndex")
        yield from _exit_codes(f"{where}.onExitCodes", given.get("onExitCodes") or {}, present)


def _exit_codes(path: str, given: Mapping[str, Any], containers: list[str]) -> Iterator[Problem]:
    name, values = given.get("containerName"), given.get("values")
    if name is not None and name not in containers:
        yield Problem(f"{path}.containerName", f"is {name!r}, which no container is called", _one_of(containers))
    if values is None:
        return
    if not values:
        yield Problem(f"{path}.values", "is empty", "give the exit codes, such as [78]")
    if values != sorted(set(values)):
        yield Problem(f"{path}.values", "is not in order, or names a code twice", f"write {sorted(set(values))}")
    if given.get("operator") == "In" and 0 in values:
        yield Problem(f"{path}.values", "holds 0, which is no failure", "remove it")


def _one_of(containers: list[str]) -> str:
    return f"there are {', '.join(filter(None, containers))}" if containers else "there is no container"
