"""Rendered objects put into a cluster: tried first, then made, and taken back where one of them fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .api import CONFLICT, FORBIDDEN, Api, ApiError
from .errors import KubernetesError
from .job_state import job_state
from .labels import EXAMPLE
from .manifest import label
from .resource import JOB, SERVICE_ACCOUNT, Resource


class SubmissionError(KubernetesError):
    """Not everything could be made; the message says what there is now."""


class Done(StrEnum):
    """What became of an object."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    LEFT = "left to an administrator"  # this user may not make it


@dataclass(frozen=True)
class Submitted:
    """An object and what became of it."""

    object: str
    done: Done
    uid: str = ""


def submit(
    api: Api,
    objects: Sequence[Mapping[str, Any]],
    *,
    dry_run: bool = False,
    replace: bool = False,
    told: Callable[[Submitted], None] = lambda _: None,
) -> list[Submitted]:
    """Make the Jobs of rendered objects, and before them what their pods need.

    The server is asked first whether it would take every one of them. Examples of Secrets are left out. What exists
    beside the Jobs is changed to what was rendered. If one fails all the same, those that were made are deleted.

    Parameters
    ----------
    dry_run : only ask the server.
    replace : delete Jobs of the same name that have ended.
    told : hears of every object when it is there.

    Raises
    ------
    SubmissionError
        If there is a Job of that name, or an object is refused; says what exists then.
    """
    chosen = [manifest for manifest in objects if EXAMPLE not in (manifest["metadata"].get("labels") or {})]
    needed = [manifest for manifest in chosen if manifest["kind"] != JOB.kind]
    jobs = [manifest for manifest in chosen if manifest["kind"] == JOB.kind]
    ended = _ended_jobs(api, jobs, replace=replace)
    for manifest in (*needed, *jobs):
        _try(api, manifest, replaced=manifest["metadata"]["name"] in ended)
    made: list[Submitted] = []
    if dry_run:
        return made
    for name, uid in ended.items():
        api.delete(JOB, name, uid=uid)
        if not api.await_gone(JOB, name):
            raise SubmissionError(f"the Job {name} that has ended is being deleted, but is not gone yet; try again")
    try:
        for manifest in (*needed, *jobs):
            made.append(_apply(api, manifest, is_needed=_is_needed(manifest, jobs)))
            told(made[-1])
    except BaseException as error:
        _take_back(api, [*needed, *jobs], made, error)
        raise
    return made


def _ended_jobs(api: Api, jobs: Sequence[Mapping[str, Any]], *, replace: bool) -> dict[str, str]:
    """The Jobs of these names that have ended, with their uids; raises where one stands in the way."""
    found: dict[str, str] = {}
    for manifest in jobs:
        name = manifest["metadata"]["name"]
        there = api.get(JOB, name)
        if there is None:
            continue
        state = job_state(there)
        if state.is_leaving:
            raise SubmissionError(f"the Job {name} is still being deleted; its last workers save and give back tasks")
        if not state.has_ended:
            raise SubmissionError(
                f"the Job {name} is there already and has {state.workers} workers; change their number with "
                f"`trainloom k8s scale`, end them with `trainloom k8s delete`, or give these workers another name"
            )
        if not replace:
            raise SubmissionError(
                f"the Job {name} is there already and has ended ({state.condition}); give --replace to delete it first"
            )
        found[name] = state.uid
    return found


def _try(api: Api, manifest: Mapping[str, Any], *, replaced: bool) -> None:
    """Have the server check an object without making it."""
    try:
        api.create(manifest, dry_run=True)
    except ApiError as error:
        if manifest["kind"] == JOB.kind:
            if error.status == CONFLICT and replaced:
                return
        elif error.status in (CONFLICT, FORBIDDEN):
            return
        raise SubmissionError(f"{label(manifest)} is refused, nothing was made: {error}") from error


def _is_needed(manifest: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the pods cannot start without it; the rights of who submits are none of theirs."""
    if manifest["kind"] in ("Role", "RoleBinding"):
        return False
    if manifest["kind"] == SERVICE_ACCOUNT.kind:
        accounts = {job["spec"]["template"]["spec"].get("serviceAccountName") for job in jobs}
        return manifest["metadata"]["name"] in accounts
    return True


def _apply(api: Api, manifest: Mapping[str, Any], *, is_needed: bool) -> Submitted:
    """Make an object, or change the one that is there; a Job is never changed."""
    resource, name = Resource.of(manifest), manifest["metadata"]["name"]
    try:
        return Submitted(label(manifest), Done.CREATED, api.create(manifest)["metadata"].get("uid", ""))
    except ApiError as error:
        if resource.kind == JOB.kind or error.status not in (CONFLICT, FORBIDDEN):
            raise
        refusal = error
    try:
        there = api.get(resource, name)
    except ApiError as error:
        if error.status != FORBIDDEN:
            raise
        return Submitted(label(manifest), Done.LEFT)  # perhaps it is there: pods that lack it say so
    if there is None and is_needed:
        raise refusal
    change = {} if there is None else _change(there, manifest)
    if there is not None and not change:
        return Submitted(label(manifest), Done.UNCHANGED)
    if there is None or refusal.status == FORBIDDEN:
        return Submitted(label(manifest), Done.LEFT)
    try:
        api.patch(resource, name, change)
    except ApiError as error:
        if error.status != FORBIDDEN:
            raise
        return Submitted(label(manifest), Done.LEFT)
    return Submitted(label(manifest), Done.CHANGED)


def _change(there: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What must be merged into an object to make it hold what was rendered; settings that are gone are removed."""
    wanted = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind", "metadata")}
    wanted["metadata"] = {
        key: manifest["metadata"][key] for key in ("labels", "annotations") if key in manifest["metadata"]
    }
    change = _difference(there, wanted)
    if "data" in manifest:
        gone = dict.fromkeys(set(there.get("data") or {}) - set(manifest["data"]))
        if gone:
            change["data"] = {**change.get("data", {}), **gone}
    return change


def _difference(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    change: dict[str, Any] = {}
    for key, value in wanted.items():
        present = there.get(key)
        if isinstance(value, Mapping) and isinstance(present, Mapping):
            if inner := _difference(present, value):
                change[key] = inner
        elif present != value and (present or value):  # an empty section and a missing one are the same
            change[key] = value
    return change


def _take_back(api: Api, wanted: Sequence[Mapping[str, Any]], made: Sequence[Submitted], error: BaseException) -> None:
    """Delete what was made, the last first; raises a sentence that says what exists all the same."""
    left = []
    by_label = {label(manifest): manifest for manifest in wanted}
    for done in reversed([done for done in made if done.done is Done.CREATED]):
        manifest = by_label[done.object]
        try:
            api.delete(Resource.of(manifest), manifest["metadata"]["name"], uid=done.uid)
        except KubernetesError:
            left.append(f"{done.object} is there")
    failed = label(wanted[len(made)]) if len(made) < len(wanted) else ""
    if failed and (error.is_open if isinstance(error, ApiError) else not isinstance(error, Exception)):
        left.append(f"{failed} may be there")
    left += [f"{done.object} was changed" for done in made if done.done is Done.CHANGED]
    if isinstance(error, Exception) or left:
        exists = f"{', '.join(left)} (`trainloom k8s delete` removes all of it)" if left else "nothing was left"
        why = error if isinstance(error, Exception) else "interrupted"
        raise SubmissionError(f"{failed or 'the rest'} could not be made ({why}); {exists}") from error
