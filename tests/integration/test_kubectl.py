"""Rendered YAML as `kubectl` reads it. Its dry run asks a server for nothing but the kinds that there are."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.manifest import to_yaml
from k8s.render import render
from k8s.values import Values
from tests.unit.test_k8s_examples import EXAMPLES, NAMES

KUBECTL = shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="no kubectl")
GROUPS = {
    "/api/v1": ("v1", ("ConfigMap", "Secret", "ServiceAccount", "Service")),
    "/apis/batch/v1": ("batch/v1", ("Job",)),
    "/apis/rbac.authorization.k8s.io/v1": ("rbac.authorization.k8s.io/v1", ("Role", "RoleBinding")),
    "/apis/keda.sh/v1alpha1": ("keda.sh/v1alpha1", ("ScaledJob", "TriggerAuthentication")),
}


class Discovery(BaseHTTPRequestHandler):
    """Tells which kinds a cluster has."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/api":
            self._send({"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            self._send({"kind": "APIGroupList", "apiVersion": "v1", "groups": [*map(_group, GROUPS)][1:]})
        elif path in GROUPS:
            version, kinds = GROUPS[path]
            self._send(
                {
                    "kind": "APIResourceList",
                    "groupVersion": version,
                    "resources": [
                        {
                            "name": f"{kind.lower()}s",
                            "singularName": kind.lower(),
                            "namespaced": True,
                            "kind": kind,
                            "verbs": ["create"],
                        }
                        for kind in kinds
                    ],
                }
            )
        else:
            self.send_error(404)

    def _send(self, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _group(path: str) -> dict[str, Any]:
    group, _, version = GROUPS[path][0].rpartition("/")
    named = {"groupVersion": GROUPS[path][0], "version": version}
    return {"name": group, "versions": [named], "preferredVersion": named}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Discovery) as started:
        thread = threading.Thread(target=started.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{started.server_port}"
        started.shutdown()
        thread.join()


def as_kubectl_reads(text: str, cluster: str, home: Path) -> list[Any]:
    dry_run = ("create", "--dry-run=client", "--validate=false", "--output=json", "--filename=-")
    done = subprocess.run(
        [str(KUBECTL), *dry_run, f"--server={cluster}", f"--cache-dir={home}"],
        input=text,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "KUBECONFIG": str(home / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    decoder, found, rest = json.JSONDecoder(), [], done.stdout.strip()
    while rest:
        item, end = decoder.raw_decode(rest)
        found += item["items"] if item["kind"] == "List" else [item]
        rest = rest[end:].strip()
    return found


def told(objects: list[Any]) -> list[Any]:
    """Without the namespace that kubectl adds."""
    for item in objects:
        item["metadata"].pop("namespace", None)
    return objects


@pytest.mark.feature("S19")
@pytest.mark.parametrize("name", NAMES)
def test_kubectl_reads_the_objects_that_were_rendered(name: str, cluster: str, tmp_path: Path) -> None:
    text = (EXAMPLES / name / "manifest.yaml").read_text(encoding="utf-8")
    if name != "synicix":  # its objects have no namespace
        text = text.replace("namespace: lab", "namespace: default")
    assert told(as_kubectl_reads(text, cluster, tmp_path)) == told(list(yaml.safe_load_all(text)))


def test_text_stays_text_for_kubectl(cluster: str, tmp_path: Path) -> None:
    """Its reader takes more for numbers and truth values than Python's does."""
    words = [
        "1e3",
        "08",
        "0x1f",
        "1_000",
        "y",
        "n",
        "Yes",
        "off",
        "null",
        "~",
        ".5",
        "+1",
        "1:30",
        "2026-01-01",
        "",
        "a: b",
    ]
    words += ["0o17", "-", "=", "# no", "é", "tab\there", "two\nlines\n", "12345e78", ".inf", "NaN", "@x", "*x", "<<"]
    variables = {f"V{number}": word for number, word in enumerate(words)}
    objects = render(Values.load(None, {"image": "a:1", "worker.env": variables}))
    (job,) = [item for item in as_kubectl_reads(to_yaml(objects), cluster, tmp_path) if item["kind"] == "Job"]
    env = {item["name"]: item.get("value") for item in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert {name: env[name] for name in variables} == variables
