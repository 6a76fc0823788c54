"""Checks of a Kubernetes cluster, before workers are sent there."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from k8s.api import FORBIDDEN, Api, ApiError
from k8s.errors import KubernetesError
from k8s.permission import missing
from k8s.quantity import amount
from k8s.resource import CONFIG_MAP, RESOURCE_QUOTA, SECRET, SERVICE_ACCOUNT
from pipeline.errors import ConfigurationError
from pipeline.settings import Settings

from .check import Check, fail, ok, warn

if TYPE_CHECKING:
    from k8s.values import Values

ENFORCED = "pod-security.kubernetes.io/enforce"
LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})
DATABASE_VARIABLES = ("TRAINLOOM_DATABASE_URL", "TRAINLOOM_DATABASE_HOST", "DJ_HOST")
MONGO_VARIABLES = ("TRAINLOOM_MONGO_URL",)


def checks(open_api: Callable[[], Api], settings: Settings | None, values: Values | None) -> Iterator[Check]:
    """Look at the cluster and at what its pods need; no message holds a secret.

    Parameters
    ----------
    open_api : raises where there is no cluster.
    values : what is to be submitted; without them what depends on it is left out.
    """
    yield _client()
    try:
        api = open_api()
        yield ok("cluster", f"Kubernetes {api.version()} at {api.cluster.server}, context {api.cluster.context!r}")
    except KubernetesError as error:
        yield fail("cluster", str(error))
    else:
        for part in (_namespace, _permissions, _secrets, _quota):
            try:
                yield from part(api, values)
            except KubernetesError as error:
                yield fail(part.__name__.strip("_"), str(error))
    yield from _addresses(settings, values)


def _client() -> Check:
    try:
        return ok("client", f"kubernetes {metadata.version('kubernetes')}")
    except metadata.PackageNotFoundError:
        return fail("client", "the Kubernetes client is not installed", "run `pip install 'trainloom[k8s]'`")


def _namespace(api: Api, values: Values | None) -> Iterator[Check]:
    """Whether it is there, and whether it admits such pods."""
    name = api.cluster.namespace
    try:
        found = api.namespace()
    except ApiError as error:
        if error.status != FORBIDDEN:
            raise
        cure = "if pods do not come, `trainloom k8s status` says what forbids them"
        yield warn("namespace", f"this user may not look at the namespace {name}, so its rules are not known", cure)
        return
    if found is None:
        cure = f"make it with `kubectl create namespace {name}`, or choose another with --namespace"
        yield fail("namespace", f"there is no namespace {name}", cure)
        return
    level = (found["metadata"].get("labels") or {}).get(ENFORCED, "privileged")
    message = f"{name} admits pods of the security level {level}"
    wishes = _host_wishes(values) if values is not None and level != "privileged" else []
    if wishes:
        cure = "leave them out of the values, or choose another namespace"
        yield fail("namespace", f"{message}, which forbids {' and '.join(wishes)}", cure)
    else:
        yield ok("namespace", message)


def _host_wishes(values: Values) -> list[str]:
    """What the pods want of their node that only privileged namespaces give."""
    groups = values.jobs().values()
    found = ["host_network"] if any(group.host_network for group in groups) else []
    if any(mount.host_path for group in groups for mount in group.mounts.values()):
        found.append("host_path")
    return found


def _permissions(api: Api, values: Values | None) -> Iterator[Check]:
    lacking = missing(api)
    if lacking:
        cure = "have an administrator bind you to the Role that `trainloom k8s render` prints"
        yield fail("rights", f"this user may not: {', '.join(lacking)}", cure)
    else:
        yield ok("rights", "this user may submit, watch, scale and delete workers")
    others = [resource for resource in (CONFIG_MAP, SERVICE_ACCOUNT) if not api.may("create", resource)]
    if others:
        names = " and ".join(resource.kind for resource in others)
        cure = "have an administrator apply what `trainloom k8s render` prints, once and after each change of settings"
        yield warn("rights", f"this user may not create a {names}, which the pods need", cure)


def _secrets(api: Api, values: Values | None) -> Iterator[Check]:
    """Whether the Secrets that pods name are there; their content is asked by nobody."""
    if values is None:
        return
    names = {secret.name: not secret.optional for secret in values.credentials()}
    names |= dict.fromkeys([*values.image_pull_secrets, *([values.code.secret] if values.code.secret else [])], True)
    for name, is_needed in names.items():
        if not api.may("get", SECRET, name=name):
            cure = f"ask somebody who may, with `kubectl get secret {name} -n {api.cluster.namespace}`"
            yield warn("secrets", f"this user may not look whether the Secret {name} is there", cure)
        elif api.exists(SECRET, name):
            yield ok("secrets", f"the Secret {name} is there; what it holds was not looked at")
        else:
            verdict = fail if is_needed else warn
            cure = "make it from the example that `trainloom k8s render` prints"
            yield verdict("secrets", f"there is no Secret {name} in the namespace {api.cluster.namespace}", cure)


def _quota(api: Api, values: Values | None) -> Iterator[Check]:
    """Whether the namespace has room for the workers."""
    try:
        quotas = api.list(RESOURCE_QUOTA).items
    except ApiError as error:
        if error.status != FORBIDDEN:
            raise
        yield warn("quota", "this user may not look at the quotas of the namespace")
        return
    if not quotas:
        yield ok("quota", "the namespace has none")
        return
    wanted = {} if values is None else _wanted(values)
    for quota in quotas:
        name = quota["metadata"]["name"]
        status = quota.get("status") or {}
        hard, used = status.get("hard") or {}, status.get("used") or {}
        tight = [line for resource, limit in hard.items() if (line := _shortage(resource, limit, used, wanted))]
        if tight:
            cure = "ask for fewer workers, smaller ones, or a larger quota"
            yield warn("quota", f"{name} does not leave room for all workers at once: {'; '.join(tight)}", cure)
        else:
            listed = ", ".join(f"{resource} {used.get(resource, '0')} of {limit}" for resource, limit in hard.items())
            yield ok("quota", f"{name}: {listed}")


def _wanted(values: Values) -> dict[str, Any]:
    """What all workers together take, by the names that quotas use."""
    total: dict[str, Any] = {}
    for group in values.jobs().values():
        each = {"cpu": amount(group.cpus), "memory": amount(group.memory)}
        asked = {f"{kind}.{name}": number for kind in ("requests", "limits") for name, number in each.items()}
        asked |= each
        if group.gpus:
            asked[f"requests.{group.gpu_resource}"] = amount(str(group.gpus))
        asked["pods"] = amount("1")
        for name, number in asked.items():
            total[name] = total.get(name, 0) + number * group.workers
    total["count/jobs.batch"] = len(values.jobs())
    return total


def _shortage(resource: str, limit: str, used: Mapping[str, str], wanted: Mapping[str, Any]) -> str:
    """What of a resource is lacking, empty if nothing is."""
    left = amount(limit) - amount(used.get(resource, "0"))
    needs = wanted.get(resource, 0)
    return f"{resource} {used.get(resource, '0')} of {limit} used, {needs:f} wanted" if needs > left else ""


def _addresses(settings: Settings | None, values: Values | None) -> Iterator[Check]:
    """Whether the pods are told of servers that can be reached from where they run."""
    if settings is not None:
        yield from _own_addresses(settings)
    if values is None:
        yield ok("pods", "give --values FILE to have their secrets, quota and servers looked at too")
        return
    given = {f"TRAINLOOM_{name.upper()}": str(value) for name, value in values.settings.items()}
    secret = {variable: secret.name for secret in values.credentials() for variable in secret.env}
    for name, variables in (("database", DATABASE_VARIABLES), ("mongodb", MONGO_VARIABLES)):
        yield _told(name, variables, given, secret, uses_folder=str(values.settings.get("store")) == "folder")


def _told(
    name: str, variables: tuple[str, ...], given: Mapping[str, str], secret: Mapping[str, str], *, uses_folder: bool
) -> Check:
    """Where the pods get the address of a server from."""
    for variable in variables:
        if variable in secret:
            return ok("pods", f"their {name} comes from {variable} in the Secret {secret[variable]}")
        if variable in given:
            return _reachable("pods", f"their {name}", _hosts(given[variable]))
    if name == "mongodb" and uses_folder:
        return ok("pods", "they use no mongodb: objects are kept in a folder")
    cure = f"name a Secret with {variables[0]} in the values"
    return fail("pods", f"nothing tells them of a {name}, and they cannot start one", cure)


def _own_addresses(settings: Settings) -> Iterator[Check]:
    """Whether the servers that this machine uses can be those of the pods."""
    try:
        database = settings.database
    except ConfigurationError as error:
        yield fail("database", str(error))
        return
    if database is None:
        cure = "set database_url to a server that both can reach, or pods work for another project than this machine"
        yield warn("database", "this machine uses the embedded database, which pods cannot reach", cure)
    else:
        yield _reachable("database", "this machine's database", [database.host])
    if settings.mongo_url is not None:
        yield _reachable("mongodb", "this machine's mongodb", _hosts(settings.mongo_url.get_secret_value()))
    elif settings.store != "folder":
        cure = "set mongo_url to a server that both can reach"
        yield warn("mongodb", "this machine uses the embedded MongoDB, which pods cannot reach", cure)


def _hosts(address: str) -> list[str]:
    """The hosts in a URL, of which MongoDB's may hold several, or in ``host:port``; passwords are dropped first."""
    rest = address.partition("://")[2] or address
    places = rest.rpartition("@")[2].partition("/")[0].partition("?")[0] if not rest.startswith("/") else rest
    if places.startswith("/"):
        return [places]
    return [urlsplit(f"//{place}").hostname or "" for place in places.split(",")]


def _reachable(name: str, what: str, hosts: list[str]) -> Check:
    """Whether hosts mean the same from inside a pod as from here."""
    for host in hosts:
        if host.startswith("/") or host.lower().startswith("%2f"):
            return fail(name, f"{what} is behind a socket, which is on one machine alone", "give the server's address")
        if _is_loopback(host):
            cure = "give the name or address by which the pods' network knows the server"
            return fail(name, f"{what} is at {host or 'no host'}, which in a pod is the pod itself", cure)
    return ok(name, f"{what} is at {', '.join(hosts)}")


def _is_loopback(host: str) -> bool:
    if not host or host.lower() in LOOPBACK_NAMES or host.lower().endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
