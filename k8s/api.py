"""Calls of the Kubernetes API: plain dicts in and out, timeouts, and repetition where that does no harm.

Objects go over the wire as they are given and come back as the server says them: the client's own models would drop or
refuse fields, each version others.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .cluster import Cluster
from .errors import KubernetesError
from .resource import ACCESS_REVIEW, POD, Resource

TRIES = 6
FIRST_PAUSE = 0.2  # s; doubled after each try
LONGEST_PAUSE = 10.0  # s; also of what a server asks for
PAGE = 500  # objects per answer of a list
WATCH_SECONDS = 240  # after which the server ends a watch, and it is begun anew
TRANSIENT = frozenset({429, 500, 502, 503, 504})
NOT_DONE = 429  # refused before anything happened
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, GONE = 401, 403, 404, 409, 410
MERGE_PATCH = "application/merge-patch+json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
CHUNK = 2**16  # bytes
MARK = "trainloom/created-by"
"""Annotation that tells whether an object is the one that a create, whose answer was lost, has made."""


T = TypeVar("T")


class ApiError(KubernetesError):
    """The API server refused or failed; `status` is the HTTP status, `reason` the server's word for it.

    Attributes
    ----------
    is_transient : whether the same request may be answered better a little later.
    is_open : whether it may have been done all the same.
    """

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.is_transient = status in TRANSIENT
        self.is_open = self.is_transient and status != NOT_DONE
        self.retry_after = float(retry_after) if retry_after.isdigit() else 0.0


class Unreachable(ApiError):
    """No API server answers, or its answer was lost."""

    def __init__(self, message: str, *, is_transient: bool = True) -> None:
        super().__init__(message)
        self.is_transient = self.is_open = is_transient


class StreamBroken(KubernetesError):
    """A stream ended in the middle, or said nothing for too long: ask for what follows."""


class Expired(KubernetesError):
    """A watch asks for changes that the server no longer remembers: list again."""


@dataclass(frozen=True)
class Listing:
    """Objects of a kind, and the version after which a watch tells their changes."""

    items: list[dict[str, Any]]
    version: str


class Api:
    """What is asked of one cluster; safe for several threads."""

    def __init__(self, cluster: Cluster, pause: Callable[[float], None] = time.sleep) -> None:
        self.cluster = cluster
        self._pause = pause

    # Reading

    def get(self, resource: Resource, name: str) -> dict[str, Any] | None:
        """An object, None if there is none."""
        return self._get(resource.path(self.cluster.namespace, name))

    def exists(self, resource: Resource, name: str) -> bool:
        """Whether there is an object of that name; of a Secret no content is asked for."""
        return self._get(resource.path(self.cluster.namespace, name), accept=METADATA) is not None

    def namespace(self) -> dict[str, Any] | None:
        """The namespace itself, None if there is none."""
        return self._get(f"/api/v1/namespaces/{self.cluster.namespace}")

    def version(self) -> str:
        """The server's version, such as ``v1.36.1``."""
        return str(self._json("GET", "/version").get("gitVersion", "of unknown version"))

    def list(self, resource: Resource, *, labels: str = "", fields: str = "") -> Listing:
        """All objects of a kind in the namespace that the selectors choose."""
        query = {"limit": str(PAGE), **_selectors(labels, fields)}
        items: list[dict[str, Any]] = []
        while True:
            try:
                page = self._json("GET", resource.path(self.cluster.namespace), query=query)
            except ApiError as error:
                if error.status != GONE or "continue" not in query:
                    raise
                items, query = [], {name: value for name, value in query.items() if name != "continue"}
                continue
            items += page["items"]
            following = page["metadata"].get("continue")
            if not following:
                return Listing(items, page["metadata"].get("resourceVersion", ""))
            query["continue"] = following

    def watch(
        self, resource: Resource, version: str, *, labels: str = "", fields: str = ""
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Changes after a version, as pairs of ADDED, MODIFIED, DELETED or BOOKMARK and the object; until the server
        ends the connection or it breaks, which is no error.

        Raises
        ------
        Expired
            If the server no longer remembers that version.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            **_selectors(labels, fields),
        }
        path = resource.path(self.cluster.namespace)
        try:
            response = self._response("GET", path, query=query, answer_limit=WATCH_SECONDS + 30.0)
        except ApiError as error:
            if error.status == GONE:
                raise Expired from error
            raise
        try:
            for line in _lines(response):
                try:
                    event = json.loads(line)
                except ValueError:  # what stands between has cut the stream, or answers itself
                    return
                if event["type"] == "ERROR":
                    if event["object"].get("code") == GONE:
                        raise Expired
                    raise self._refusal(int(event["object"].get("code", 0)), event["object"])
                yield event["type"], event["object"]
        except StreamBroken:
            return

    def log(self, pod: str, query: Mapping[str, str], *, answer_limit: float) -> Iterator[bytes]:
        """The lines of a pod's log, without line ends; `query` says which.

        Raises
        ------
        StreamBroken
            If the connection breaks, or nothing came for `answer_limit` seconds.
        """
        path = POD.path(self.cluster.namespace, pod, "log")
        yield from _lines(self._response("GET", path, query=query, answer_limit=answer_limit))

    def may(self, verb: str, resource: Resource, subresource: str = "", name: str = "") -> bool:
        """Whether this user may do something to objects of a kind in the namespace, or to one of them."""
        attributes = {
            "namespace": self.cluster.namespace,
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "subresource": subresource,
            "name": name,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": ACCESS_REVIEW.kind,
            "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
        }
        answer = self._json("POST", ACCESS_REVIEW.path(None), body=review)
        return bool(answer.get("status", {}).get("allowed"))

    # Changing

    def create(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Make an object; fields that the server does not know are refused. A create whose answer was lost is settled
        by reading back.

        Raises
        ------
        ApiError
            If it is refused; with status 409 if there is an object of that name already.
        """
        resource, name, mark = Resource.of(manifest), manifest["metadata"]["name"], secrets.token_hex(8)
        body = _marked(manifest, mark)
        is_open = False

        def once() -> dict[str, Any]:
            nonlocal is_open
            try:
                return self._content("POST", resource.path(self.cluster.namespace), query=_strict(dry_run), body=body)
            except ApiError as error:
                is_open = is_open or error.is_open
                if dry_run or not is_open:
                    raise
                found = self.get(resource, name)
                if found is None or _mark(found) != mark:
                    raise
                return found

        return self._repeated(once)

    def patch(
        self, resource: Resource, name: str, change: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Merge a change of absolute values into an object (RFC 7386)."""
        path = resource.path(self.cluster.namespace, name)
        return self._json("PATCH", path, query=_strict(dry_run), body=change, content_type=MERGE_PATCH)

    def delete(self, resource: Resource, name: str, *, propagation: str = "Background", uid: str = "") -> bool:
        """Delete an object and, by `propagation`, what belongs to it; False if there is none.

        Without a policy a Job's pods would stay and go on. With a `uid`, only that very object is deleted.
        """
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            **({"preconditions": {"uid": uid}} if uid else {}),
        }
        try:
            self._json("DELETE", resource.path(self.cluster.namespace, name), body=options)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return False
            raise
        return True

    def await_gone(self, resource: Resource, name: str) -> bool:
        """Whether a deleted object is gone within some seconds: what finalises it takes its time."""
        pause = FIRST_PAUSE
        for _ in range(TRIES):
            if self.get(resource, name) is None:
                return True
            self._pause(pause)
            pause *= 2
        return False

    # One request

    def _get(self, path: str, **rest: Any) -> dict[str, Any] | None:
        try:
            return self._json("GET", path, **rest)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def _json(self, method: str, path: str, **rest: Any) -> dict[str, Any]:
        """What is answered to a request that may be sent twice."""
        return self._repeated(lambda: self._content(method, path, **rest))

    def _repeated(self, call: Callable[[], T]) -> T:
        pause = FIRST_PAUSE
        for _ in range(TRIES - 1):
            try:
                return call()
            except ApiError as error:
                if not error.is_transient:
                    raise
                # Spread, so that many who were refused at once do not come back at once.
                self._pause(
                    min(LONGEST_PAUSE, max(error.retry_after, pause * random.SystemRandom().uniform(0.75, 1.25)))
                )
                pause *= 2
        return call()

    def _content(self, method: str, path: str, **rest: Any) -> dict[str, Any]:
        """The object in the answer to one request."""
        import urllib3

        response = self._response(method, path, **rest)
        try:
            found = json.loads(response.data)
        except urllib3.exceptions.HTTPError as error:  # broken off in the middle
            raise self._unreachable(error) from error
        except ValueError as error:
            raise ApiError(f"{self._server} does not speak JSON; is it the address of an API server?") from error
        if not isinstance(found, dict):
            raise ApiError(f"{self._server} answers with no object; is it the address of an API server?")
        return found

    def _response(self, method: str, path: str, **rest: Any) -> Any:
        """A response with a good status, its content not read yet."""
        import urllib3

        try:
            response = self.cluster.send(method, path, **rest)
            if 200 <= response.status < 300:
                return response
            status = _status_in(response.data)
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        raise self._refusal(response.status, status, response.headers.get("Retry-After", ""))

    @property
    def _server(self) -> str:
        return f"the API server {self.cluster.server} of the context {self.cluster.context!r}"

    def _unreachable(self, error: Exception) -> Unreachable:
        import urllib3

        if isinstance(error, urllib3.exceptions.SSLError):
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                return Unreachable(f"{self._server} does not speak TLS; correct its address", is_transient=False)
            cure = "correct the certificate authority in the kube-config"
            return Unreachable(f"{self._server} shows a certificate that is not trusted; {cure}", is_transient=False)
        if isinstance(error, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
            return Unreachable(f"{self._server} cannot be reached; see whether it runs and the network leads there")
        return Unreachable(f"{self._server} did not answer in time or broke off; try again")

    def _refusal(self, code: int, status: Mapping[str, Any], retry_after: str = "") -> ApiError:
        """The server's refusal in its own words, which name the object, the field and the rule."""
        said = str(status.get("message") or status.get("reason") or f"HTTP status {code}")
        if code == UNAUTHORIZED:
            said = f"{self._server} does not accept the credentials; log in again"
        return ApiError(said, status=code, reason=str(status.get("reason", "")), retry_after=retry_after)


def _lines(response: Any) -> Iterator[bytes]:
    """The lines of a stream; what follows the last line end only where the stream came to its end.

    Raises
    ------
    StreamBroken
        If it broke off before.
    """
    import urllib3

    rest = b""
    try:
        for chunk in response.stream(CHUNK, decode_content=True):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest
    except urllib3.exceptions.HTTPError as error:
        raise StreamBroken("the connection broke off in the middle of the lines; try again") from error
    finally:
        response.close()


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {name: value for name, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}


def _strict(dry_run: bool) -> dict[str, str]:
    return {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}


def _marked(manifest: Mapping[str, Any], mark: str) -> dict[str, Any]:
    metadata = manifest["metadata"]
    annotations = {**(metadata.get("annotations") or {}), MARK: mark}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _mark(found: Mapping[str, Any]) -> str | None:
    return (found["metadata"].get("annotations") or {}).get(MARK)


def _status_in(content: bytes) -> Mapping[str, Any]:
    """The Status object of a refusal; what stands between may answer with something else."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
