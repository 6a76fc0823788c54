"""The HTTP of a small Kubernetes API server: verbs, selectors, watches, logs, and faults where they are asked for."""

from __future__ import annotations

import copy
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.fake_admission import Refused, check_fields, check_job

if TYPE_CHECKING:
    from tests.fake_cluster import FakeCluster

NAMESPACE = "lab"
TOKEN = "token-that-nobody-may-see"
JOBS, PODS, EVENTS = "jobs", "pods", "events"
LONGEST_WATCH = 60.0  # s
PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[a-z.0-9]+)/v1)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<part>log|status))?"
)
GROUPS = {"jobs": "batch", "roles": "rbac.authorization.k8s.io", "rolebindings": "rbac.authorization.k8s.io"}


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    content_type: str
    accept: str


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, cluster: FakeCluster) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cluster = cluster

    def handle_error(self, *_: Any) -> None:
        """Those who are hung up on, or hang up, are no error."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def cluster(self) -> FakeCluster:
        assert isinstance(self.server, Server)
        return self.server.cluster

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PATCH = do_DELETE = do_GET

    # Answers

    def _answer(self) -> None:
        url = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(
            self.command,
            unquote(url.path),
            dict(parse_qsl(url.query)),
            json.loads(content) if content else None,
            self.headers.get("Content-Type", ""),
            self.headers.get("Accept", ""),
        )
        cluster = self.cluster
        with cluster.changed:
            stopped = cluster.stopped
            cluster.requests.append(request)
            self.broken = cluster.broken  # before anybody who waits for this request breaks it off
            cluster.changed.notify_all()
            fault = next((f for f in cluster.faults if f.method == self.command and re.search(f.path, url.path)), None)
            if fault is not None:
                fault.times -= 1
                if not fault.times:
                    cluster.faults.remove(fault)
        if stopped:
            self._hang_up()
            return
        if fault is not None and fault.status:
            refusal = Refused(fault.status, "Failed", f"the server says {fault.status}").status
            self._send(fault.status, refusal, {"Retry-After": fault.retry_after} if fault.retry_after else {})
            return
        if fault is not None and fault.when == "before":
            self._hang_up()
            return
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            answer = self._serve(request)
        except Refused as refused:
            self._send(refused.code, refused.status)
            return
        if fault is not None:
            self._hang_up()
        elif answer is not None:
            self._send(201 if self.command == "POST" else 200, answer)

    def _send(self, code: int, answer: Any, headers: Mapping[str, str] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, request: Request) -> Any:
        """The answer, None where it has been written."""
        if request.path == "/version":
            self._send(200, self.cluster.greeting)
            return None
        found = PATH.fullmatch(request.path)
        if found is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        if found["plural"] == "selfsubjectaccessreviews":
            return {**request.body, "status": {"allowed": self._is_allowed(request.body["spec"])}}
        verb = _verb(request, found["name"])
        plural = f"{found['plural']}/{found['part']}" if found["part"] else found["plural"]
        if (verb, plural) in self.cluster.denied:
            group = found["group"] or ""
            where = f'in API group "{group}" in the namespace "{NAMESPACE}"'
            name = f' "{found["name"]}"' if found["name"] else ""
            raise Refused(
                403,
                "Forbidden",
                f'{plural}{"." + group if group else ""}{name} is forbidden: User "alice" cannot {verb} resource '
                f'"{plural}" {where}',
            )
        if found["plural"] == "namespaces":
            return self._namespace(found["name"])
        return self._namespaced(request, verb, found)

    def _namespace(self, name: str | None) -> Any:
        if name != NAMESPACE:
            raise Refused(404, "NotFound", f'namespaces "{name}" not found')
        return self.cluster.namespace

    def _is_allowed(self, spec: Mapping[str, Any]) -> bool:
        attributes = spec["resourceAttributes"]
        part = f"/{attributes['subresource']}" if attributes.get("subresource") else ""
        return (attributes["verb"], f"{attributes['resource']}{part}") not in self.cluster.denied

    def _namespaced(self, request: Request, verb: str, found: re.Match[str]) -> Any:
        plural, name = found["plural"], found["name"]
        cluster = self.cluster
        if found["namespace"] != NAMESPACE:
            if verb == "create":
                raise Refused(404, "NotFound", f'namespaces "{found["namespace"]}" not found')
            return {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}
        if found["part"] == "log":
            self._log(name, request.query)
            return None
        if verb == "watch":
            self._watch(plural, request.query)
            return None
        if verb == "list":
            return self._list(plural, request.query)
        with cluster.changed:
            if verb == "create":
                return self._create(plural, request)
            thing = cluster.objects.get((plural, name))
            if thing is None:
                group = GROUPS.get(plural)
                raise Refused(404, "NotFound", f'{plural}{"." + group if group else ""} "{name}" not found')
            if verb == "get":
                return _metadata_only(thing) if "PartialObjectMetadata" in request.accept else thing
            if verb == "patch":
                return self._patch(plural, thing, request)
            return self._delete(plural, thing, request.body or {})

    # Verbs

    def _create(self, plural: str, request: Request) -> Any:
        thing = copy.deepcopy(request.body)
        name = thing["metadata"]["name"]
        if request.query.get("fieldValidation") == "Strict":
            check_fields(thing)
        check_job(thing)
        if (plural, name) in self.cluster.objects:
            group = GROUPS.get(plural)
            raise Refused(409, "AlreadyExists", f'{plural}{"." + group if group else ""} "{name}" already exists')
        if request.query.get("dryRun") == "All":
            return thing
        if self.cluster.refused_after is not None and self.cluster.refused_after[0] == name:
            code, self.cluster.refused_after = self.cluster.refused_after[1], None
            raise Refused(code, "Invalid", f'{plural} "{name}" is invalid')
        return self.cluster.put(plural, {**thing, "status": {}})

    def _patch(self, plural: str, thing: dict[str, Any], request: Request) -> Any:
        if request.content_type != "application/merge-patch+json":
            raise Refused(415, "UnsupportedMediaType", f"cannot use {request.content_type}")
        changed = _merged(thing, request.body)
        if request.query.get("fieldValidation") == "Strict":
            check_fields(changed)
        check_job(changed)
        before, after = thing.get("spec", {}), changed.get("spec", {})
        if before.get("completions") != after.get("completions") and after.get("parallelism") != after["completions"]:
            raise Refused(
                422,
                "Invalid",
                f'Job.batch "{thing["metadata"]["name"]}" is invalid: spec.completions: '
                "Invalid value: field is immutable",
            )
        if request.query.get("dryRun") == "All":
            return changed
        return self.cluster.put(plural, changed)

    def _delete(self, plural: str, thing: dict[str, Any], options: Mapping[str, Any]) -> Any:
        cluster, name = self.cluster, thing["metadata"]["name"]
        uid = options.get("preconditions", {}).get("uid")
        if uid and uid != thing["metadata"]["uid"]:
            raise Refused(409, "Conflict", f"the UID in the precondition ({uid}) does not match")
        policy = options.get("propagationPolicy", "Orphan")
        pods = cluster.pods_of(thing) if plural == JOBS and policy != "Orphan" else []
        if pods and policy == "Foreground":
            thing["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
            cluster.put(plural, thing)
        else:
            cluster.remove(plural, name)
        for pod in pods:
            if cluster.terminates_at_once:
                cluster.remove(PODS, pod["metadata"]["name"])
            else:
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
                cluster.put(PODS, pod)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def _list(self, plural: str, query: Mapping[str, str]) -> Any:
        cluster = self.cluster
        with cluster.changed:
            version, start = str(cluster.version), int(query.get("continue", "0"))
            chosen = [copy.deepcopy(thing) for thing in cluster.all(plural) if _selected(thing, query)]
        limit = min(cluster.page, int(query.get("limit", cluster.page)))
        metadata = {"resourceVersion": version}
        if start + limit < len(chosen):
            metadata["continue"] = str(start + limit)
        return {"kind": "List", "metadata": metadata, "items": chosen[start : start + limit]}

    def _watch(self, plural: str, query: Mapping[str, str]) -> None:
        cluster, last = self.cluster, int(query["resourceVersion"] or 0)
        self._begin_stream("application/json")
        if last < cluster.forgotten:
            expired = Refused(410, "Expired", f"too old resource version: {last}").status
            self._chunk(json.dumps({"type": "ERROR", "object": expired}).encode() + b"\n")
            self._chunk(b"")
            return

        def news() -> list[tuple[int, str, str, dict[str, Any]]]:
            return [
                change
                for change in cluster.history
                if change[0] > last and change[1] == plural and _selected(change[3], query)
            ]

        while True:
            with cluster.changed:
                ready = cluster.changed.wait_for(lambda: cluster.broken != self.broken or news(), LONGEST_WATCH)
                changes = news()
            if cluster.broken != self.broken or not ready:
                self._break_off()
                return
            for version, _, kind, thing in changes:
                self._chunk(json.dumps({"type": kind, "object": thing}).encode() + b"\n")
                last = version

    def _log(self, name: str, query: Mapping[str, str]) -> None:
        cluster = self.cluster
        with cluster.changed:
            pod, log = cluster.objects.get((PODS, name)), cluster.logs.get(name)
            if pod is None or log is None:
                raise Refused(404, "NotFound", f'pods "{name}" not found')
            names = [container["name"] for container in pod["spec"]["containers"]]
            if "container" not in query and len(names) > 1:
                raise Refused(400, "BadRequest", f"a container name must be specified: choose one of {names}")
            container = query.get("container", names[0])
            if pod["status"]["phase"] == "Pending":
                raise Refused(
                    400, "BadRequest", f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating'
                )
            if query.get("previous") == "true" and not log.previous:
                raise Refused(
                    400, "BadRequest", f'previous terminated container "{container}" in pod "{name}" not found'
                )
        lines = log.previous if query.get("previous") == "true" else log.lines
        since = query.get("sinceTime", "")
        done = next((place for place, (time, _) in enumerate(lines) if time >= since), len(lines))
        if "tailLines" in query:
            done = max(done, len(lines) - int(query["tailLines"]))
        self._begin_stream("text/plain")
        ends = query.get("follow") != "true" or query.get("previous") == "true"
        while True:
            with cluster.changed:
                if not ends:
                    told = done
                    cluster.changed.wait_for(
                        lambda told=told: cluster.broken != self.broken or len(lines) > told or log.ended, LONGEST_WATCH
                    )
                if cluster.broken != self.broken:
                    self._break_off()
                    return
                news, ends = lines[done:], ends or log.ended
            for time, text in news:
                stamp = f"{time} " if query.get("timestamps") == "true" else ""
                self._chunk(f"{stamp}{text}\n".encode())
            done += len(news)
            if ends:
                self._chunk(b"")
                return

    # Streams

    def _begin_stream(self, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, content: bytes) -> None:
        """A part of a stream, its end where it is empty."""
        try:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        except OSError:  # the reader has gone
            self.close_connection = True

    def _break_off(self) -> None:
        self._chunk(b'2026-01-01T00:00:59Z {"type": "MODI')
        self._hang_up()


def _verb(request: Request, name: str | None) -> str:
    if request.method == "GET":
        return "get" if name else "watch" if request.query.get("watch") == "true" else "list"
    return {"POST": "create", "PATCH": "patch", "DELETE": "delete"}[request.method]


def _metadata_only(thing: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": thing["metadata"]}


def _selected(thing: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    labels = thing["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        name, equals, value = term.partition("=")
        if (labels.get(name) != value) if equals else (name not in labels):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        found: Any = thing
        for part in path.split("."):
            found = found.get(part, "")
        if found != value:
            return False
    return True


def _merged(thing: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(thing))
    for name, value in change.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = _merged(merged.get(name) or {}, value)
        else:
            merged[name] = value
    return merged
