"""Where a cluster's API server is, and how this process may talk to it: kube-config files and service accounts."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit, urlunsplit

import yaml

from .errors import KubernetesError

KUBECONFIG = "KUBECONFIG"
DEFAULT_CONFIG = "~/.kube/config"
DEFAULT_NAMESPACE = "default"
IN_CLUSTER = "in-cluster"  # the name of the context of a pod's service account
SERVICE_HOST = "KUBERNETES_SERVICE_HOST"
SERVICE_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CONNECT_LIMIT = 10.0  # s
ANSWER_LIMIT = 30.0  # s between two reads
CREDENTIALS_LIMIT = 300.0  # s; somebody may have to log in with a browser meanwhile
CONNECTIONS = 256  # kept open at once: logs of a hundred pods are followed over one each
PLUGIN_FAILED = "exec: process returned"  # how the client says that a credential plugin failed, with its own words

T = TypeVar("T")


class AccessError(KubernetesError, ValueError):
    """There is no cluster to talk to, or no way to show who one is."""

    exit_code = 78  # EX_CONFIG of sysexits.h


class CredentialsLate(AccessError):
    """What gives the credentials does not answer."""


class Cluster:
    """An API server with the credentials for it; safe for several threads. What it prints as shows no credentials.

    Attributes
    ----------
    server : address without user and password.
    context : name of the kube-config context, ``in-cluster`` for a service account.
    namespace : where everything happens.
    """

    def __init__(self, configuration: Any, *, context: str, namespace: str) -> None:
        from kubernetes.client import ApiClient

        configuration.connection_pool_maxsize = CONNECTIONS
        self._configuration = configuration
        # Only the credentials and the connections are the client's: its models change from version to version.
        self._pool = ApiClient(configuration).rest_client.pool_manager
        self._lock = threading.Lock()
        self.server = _without_user(configuration.host)
        self.context = context
        self.namespace = namespace

    @classmethod
    def load(
        cls, *, kubeconfig: str | None = None, context: str | None = None, namespace: str | None = None
    ) -> Cluster:
        """The cluster that a kube-config names, or the one that this process is a pod of.

        Parameters
        ----------
        kubeconfig : file, or several divided by colons; by default $KUBECONFIG, else ~/.kube/config.
        context, namespace : by default those that the kube-config says.

        Raises
        ------
        AccessError
            If the client is not installed, no kube-config can be used, or what it names for credentials does not
            answer; the message holds nothing of its content.
        """
        try:
            from kubernetes.client import Configuration
        except ImportError as error:
            raise AccessError("the Kubernetes client is not installed; run `pip install 'trainloom[k8s]'`") from error
        files = kubeconfig or os.environ.get(KUBECONFIG) or DEFAULT_CONFIG
        configuration = Configuration()
        if any(Path(path).expanduser().exists() for path in files.split(os.pathsep) if path):
            context, found = _load_files(files, context, configuration)
        elif SERVICE_HOST in os.environ and not kubeconfig and not context:
            context, found = _load_service_account(configuration)
        else:
            raise AccessError(f"there is no kube-config at {files}; set {KUBECONFIG} or give --kubeconfig FILE")
        return cls(configuration, context=context, namespace=namespace or found or DEFAULT_NAMESPACE)

    def __repr__(self) -> str:
        return f"Cluster({self.server!r}, context={self.context!r}, namespace={self.namespace!r})"

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json, */*",
        answer_limit: float = ANSWER_LIMIT,
    ) -> Any:
        """Send one request and return urllib3's response, its content not read yet.

        Parameters
        ----------
        answer_limit : seconds without a byte after which it is given up.

        Raises
        ------
        AccessError
            If the credentials have run out and cannot be renewed, or not in time.
        urllib3.exceptions.HTTPError
            If there is no connection or no answer.
        """
        import urllib3

        headers = {"Accept": accept, "User-Agent": "trainloom", **self._credentials()}
        if body is not None:
            headers["Content-Type"] = content_type
        return self._pool.request(
            method,
            f"{self._configuration.host}{path}{'?' + urlencode(query) if query else ''}",
            body=None if body is None else json.dumps(body),
            headers=headers,
            preload_content=False,
            redirect=False,  # credentials go nowhere else
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_LIMIT, read=answer_limit),
        )

    def _credentials(self) -> dict[str, str]:
        """The header that says who one is; tokens that have run out are fetched anew."""

        def ask() -> Any:
            with _silenced():
                return self._configuration.auth_settings().get("BearerToken")

        with self._lock:
            try:
                setting = _in_time(ask, self.context)
            except CredentialsLate:
                raise
            except Exception:  # the client's, which may hold what a plugin answered
                said = f"the credentials of the context {self.context!r} cannot be renewed; log in again"
                raise AccessError(said) from None
        return {setting["key"]: setting["value"]} if setting else {}


def _load_files(files: str, context: str | None, configuration: Any) -> tuple[str, str | None]:
    """Fill the client's configuration from kube-config files; the context and its namespace.

    The client's own messages are shown nowhere: they may hold a user's whole entry, token and all.
    """
    from kubernetes import config

    contexts, current = _contexts(files)
    chosen = context or current
    if chosen not in contexts:
        known = ", ".join(sorted(contexts)) or "none"
        what = f"no context {chosen!r}" if chosen else "no current-context"
        raise AccessError(f"the kube-config {files} has {what}; choose one of its contexts with --context: {known}")

    def load() -> list[str]:
        with _silenced() as said:
            config.load_kube_config(files, context=chosen, client_configuration=configuration)
            return said

    try:
        said = _in_time(load, chosen)
    except CredentialsLate:
        raise
    except Exception:
        raise AccessError(
            f"the context {chosen!r} of the kube-config {files} cannot be used: its cluster or user is missing or "
            "incomplete, or a file that it names is not there"
        ) from None
    if said and not configuration.auth_settings() and not configuration.cert_file:
        reasons = [text.removeprefix("exec: ") for text in said if text.startswith(PLUGIN_FAILED)]
        because = f": {reasons[0]}" if reasons else ""
        raise AccessError(f"the program that the context {chosen!r} names for credentials gave none{because}")
    return chosen, contexts[chosen].get("namespace")


def _contexts(files: str) -> tuple[dict[str, dict[str, Any]], str]:
    """The contexts of all files by name, and the current one; of two that say the same thing the first counts."""
    contexts: dict[str, dict[str, Any]] = {}
    current = ""
    for path in filter(None, files.split(os.pathsep)):
        place = Path(path).expanduser()
        if not place.exists():
            continue
        try:
            content = yaml.safe_load(place.read_text(encoding="utf-8")) or {}
            found = {entry["name"]: entry.get("context") or {} for entry in content.get("contexts") or ()}
            current = current or str(content.get("current-context") or "")
        except OSError as error:
            raise AccessError(f"the kube-config {place} cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError):
            raise AccessError(f"the kube-config {place} is no valid YAML of a kube-config") from None
        contexts = {**found, **contexts}
    return contexts, current


def _load_service_account(configuration: Any) -> tuple[str, str | None]:
    from kubernetes import config

    try:
        config.load_incluster_config(client_configuration=configuration)
    except Exception as error:
        raise AccessError(
            "this is a pod without a usable service account token; set automountServiceAccountToken"
        ) from error
    namespace = SERVICE_NAMESPACE.read_text(encoding="utf-8").strip() if SERVICE_NAMESPACE.exists() else None
    return IN_CLUSTER, namespace


def _in_time(call: Callable[[], T], context: str) -> T:
    """What a call of the client returns or raises that may run a program or ask a server for credentials.

    The client waits for these without a limit. What takes too long is left behind in its thread: the program is a child
    that nothing tells from others of this process.

    Raises
    ------
    CredentialsLate
        If it takes longer than `CREDENTIALS_LIMIT`.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    # A daemon: what is left behind must not keep the command from ending.
    thread = threading.Thread(target=run, name="credentials", daemon=True)
    thread.start()
    thread.join(CREDENTIALS_LIMIT)
    if thread.is_alive():
        raise CredentialsLate(
            f"the credentials of the context {context!r} did not come within {CREDENTIALS_LIMIT:g} s; see what the "
            "program waits for that the kube-config names for them, or log in again"
        )
    return answer.result()


@contextmanager
def _silenced() -> Iterator[list[str]]:
    """Collects what the client logs of credentials instead of showing it."""
    said: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield said
    finally:
        root.removeFilter(keep)


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
