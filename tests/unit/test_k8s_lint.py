"""Each rule on a manifest that breaks it and on its good twin."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s.lint import Finding, lint

GOOD = """
apiVersion: batch/v1
kind: Job
metadata: {name: digits, labels: {team: vision}}
spec:
  completionMode: Indexed
  completions: 8
  parallelism: 8
  backoffLimitPerIndex: 4
  maxFailedIndexes: 8
  podReplacementPolicy: Failed
  ttlSecondsAfterFinished: 3600
  podFailurePolicy:
    rules:
    - action: FailJob
      onExitCodes: {containerName: worker, operator: In, values: [78]}
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget}]
  template:
    metadata: {labels: {team: vision}}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 90
      securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
      nodeSelector: {zone: east}
      tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchExpressions: [{key: nvidia.com/gpu.memory, operator: Gt, values: ["10000"]}]
          preferredDuringSchedulingIgnoredDuringExecution:
          - {weight: 100, preference: {matchExpressions: [{key: tensor_cores, operator: In, values: ["true"]}]}}
      containers:
      - name: worker
        image: registry.example.org:5000/lab/trainloom:1.0
        command: [python, train.py]
        env:
        - {name: DJ_PASS, valueFrom: {secretKeyRef: {name: credentials, key: DJ_PASS}}}
        - {name: TRAINLOOM_GRACE_SECONDS, value: "60"}
        - {name: DJ_HOST, value: db.example.org}
        livenessProbe: {exec: {command: ["true"]}, periodSeconds: 60}
        resources:
          requests: {cpu: "2", memory: 4Gi, nvidia.com/gpu: 1}
          limits: {cpu: "2", memory: 8Gi, nvidia.com/gpu: 1}
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
        volumeMounts:
        - {name: data, mountPath: /data}
        - {name: shm, mountPath: /dev/shm}
      volumes:
      - {name: data, persistentVolumeClaim: {claimName: data}}
      - {name: shm, emptyDir: {medium: Memory, sizeLimit: 1Gi}}
"""
JOB: dict[str, Any] = yaml.safe_load(GOOD)
SPEC = JOB["spec"]
ABSENT = object()
POD = "spec.template.spec"
WORKER = f"{POD}.containers[0]"
TERMS = f"{POD}.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
REQUIREMENT = f"{TERMS}[0].matchExpressions[0]"
RULES = "spec.podFailurePolicy.rules"
QUOTED = re.compile(r'\["([^"]*)"\]|\[(\d+)\]|\.?([^.\[]+)')


@dataclass(frozen=True)
class Rule:
    """A field, a value of it that is wrong, and one that is right.

    `at` is the path of the finding where it is another; `given` are other fields that both manifests have.
    """

    path: str
    bad: Any
    good: Any
    says: str
    at: str = ""
    severity: str = "error"
    given: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.path.rpartition('.')[2]}-{self.says}".replace(" ", "-")[:60]


# fmt: off
TABLE = [
    # Structure
    Rule("spec.paralellism", 2, ABSENT, "did you mean parallelism"),
    Rule(f"{WORKER}.volume_mounts", [], ABSENT, "did you mean volumeMounts"),
    Rule("spec.parallelism", "8", 8, "without quotes"),
    Rule("spec.parallelism", 8.5, 8, "whole number"),
    Rule("spec.parallelism", True, 8, "whole number"),
    Rule("spec.suspend", "true", True, "true or false"),
    Rule("spec.template", ABSENT, SPEC["template"], "is missing"),
    Rule(f"{POD}.containers", {}, SPEC["template"]["spec"]["containers"], "a list"),
    Rule(f"{POD}.containers", [], SPEC["template"]["spec"]["containers"], "is empty"),
    Rule(f"{POD}.securityContext", "none", {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
         "lines"),
    Rule("metadata.labels", ["a"], {"a": "b"}, "lines"),
    Rule("metadata.labels.runs", 3, "3", 'in quotes: "3"'),
    Rule("metadata.labels.runs", True, "true", 'in quotes: "true"'),
    Rule("apiVersion", "batch/v1beta1", "batch/v1", "a Job has batch/v1"),
    Rule("apiVersion", ABSENT, "batch/v1", "a Job has batch/v1"),
    Rule("spec.completionMode", "indexed", "Indexed", "did you mean Indexed"),
    Rule(f"{RULES}[0].action", "Fail", "FailJob", "the API does not know"),
    Rule(f"{POD}.tolerations[0].effect", "NoSchedul", "NoSchedule", "did you mean NoSchedule"),
    Rule("spec.ttlSecondsAfterFinished", -1, 0, "at least 0"),
    Rule("spec.activeDeadlineSeconds", 0, 1, "at least 1"),
    Rule(f"{POD}.terminationGracePeriodSeconds", -1, 90, "at least 0"),
    Rule(f"{POD}.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight", 0, 1,
         "at least 1"),
    # Names and labels
    Rule("metadata.name", "Trained_Model", "trained-model", "lower-case"),
    Rule("metadata.name", "x" * 70, "x" * 61, "(70 characters)"),
    Rule("metadata.name", "x" * 62, "x" * 61, "shorten it to 61", given={"spec.completions": 8}),
    Rule("metadata.name", "x" * 60, "x" * 59, "shorten it to 59", given={"spec.completions": 110}),
    Rule("metadata.name", ABSENT, "digits", "is missing"),
    Rule("metadata.namespace", "My_Lab", "my-lab", "is no namespace"),
    Rule("metadata.labels.x", "a b", "a_b", "is no value of a label"),
    Rule("metadata.labels.x", "x" * 64, "x" * 63, "is no value of a label"),
    Rule('metadata.labels["a/b/c"]', "x", ABSENT, "is no key of a label"),
    Rule('metadata.annotations["a b"]', "x", ABSENT, "is no key"),
    Rule("metadata.annotations.x", "x" * 300_000, "x" * 200_000, "256 KiB", at="metadata.annotations"),
    Rule("spec.template.metadata.labels.x", "-a", "a-b", "is no value of a label"),
    Rule(f"{POD}.nodeSelector.zone", "a b", "a-b", "is no value of a label"),
    # Jobs
    Rule("spec.completions", ABSENT, 8, "an Indexed Job needs it", given={"spec.maxFailedIndexes": 8}),
    Rule("spec.completionMode", "NonIndexed", "Indexed", "needs an Indexed Job", at="spec.backoffLimitPerIndex"),
    Rule("spec.completionMode", ABSENT, "Indexed", "needs an Indexed Job", at="spec.maxFailedIndexes"),
    Rule("spec.maxFailedIndexes", 99, 8, "more than the 8 completions"),
    Rule("spec.backoffLimitPerIndex", ABSENT, 1, "needs backoffLimitPerIndex", at="spec.maxFailedIndexes"),
    Rule("spec.podReplacementPolicy", "TerminatingOrFailed", "Failed", "no podFailurePolicy"),
    Rule(f"{POD}.restartPolicy", ABSENT, "Never", "is missing"),
    Rule(f"{POD}.restartPolicy", "Always", "Never", "a Job does not take"),
    Rule(f"{POD}.restartPolicy", "OnFailure", "Never", "no podFailurePolicy"),
    Rule(f"{POD}.restartPolicy", "OnFailure", "Never", "no backoffLimitPerIndex",
         given={"spec.podFailurePolicy": ABSENT} ),
    Rule(f"{RULES}[0].onExitCodes.containerName", "wroker", "worker", "there are worker"),
    Rule(f"{RULES}[0].onExitCodes.values", [], [78], "is empty"),
    Rule(f"{RULES}[0].onExitCodes.values", [78, 3], [3, 78], "not in order"),
    Rule(f"{RULES}[0].onExitCodes.values", [0], [1], "no failure"),
    Rule(f"{RULES}[0].onPodConditions", [{"type": "DisruptionTarget"}], ABSENT, "not both", at=f"{RULES}[0]"),
    Rule(f"{RULES}[1].onPodConditions", ABSENT, [{"type": "DisruptionTarget"}], "not both", at=f"{RULES}[1]"),
    Rule(f"{RULES}[0].action", "FailIndex", "FailJob", "without backoffLimitPerIndex",
         given={"spec.backoffLimitPerIndex": ABSENT, "spec.maxFailedIndexes": ABSENT}),
    Rule(RULES, [{"action": "Ignore", "onPodConditions": [{"type": "X"}]}] * 21, [], "20 are taken"),
    # Pods
    Rule(f"{POD}.initContainers", [{"name": "worker", "image": "git:1"}], ABSENT, "as another container",
         at=f"{POD}.initContainers[0].name"),
    Rule(f"{WORKER}.name", "the worker", "worker", "names no container", given={RULES: []}),
    Rule(f"{POD}.volumes[0].name", "dta", "data", "which no volume is called", at=f"{WORKER}.volumeMounts[0].name"),
    Rule(f"{POD}.volumes[1].name", "data", "shm", "as another volume"),
    Rule(f"{POD}.volumes[0].persistentVolumeClaim", ABSENT, {"claimName": "x"}, "no source", at=f"{POD}.volumes[0]"),
    Rule(f"{POD}.volumes[0].emptyDir", {}, ABSENT, "several sources", at=f"{POD}.volumes[0]"),
    Rule(f"{POD}.volumes[0].hostPath", {}, {"path": "/mnt"}, "is missing", at=f"{POD}.volumes[0].hostPath.path",
         given={f"{POD}.volumes[0].persistentVolumeClaim": ABSENT}),
    Rule(f"{POD}.volumes[0].hostPath", {"path": ""}, {"path": "/mnt"}, "is empty",
         at=f"{POD}.volumes[0].hostPath.path", given={f"{POD}.volumes[0].persistentVolumeClaim": ABSENT}),
    Rule(f"{WORKER}.volumeMounts[0].mountPath", "/dev/shm", "/data",
         "as another's", at=f"{WORKER}.volumeMounts[1].mountPath"),
    Rule(f"{WORKER}.volumeMounts[0].mountPath", "/a:b", "/a", "a colon"),
    Rule(f"{WORKER}.volumeMounts[0].subPath", "../x", "x", "leads out"),
    Rule(f"{POD}.volumes[1].emptyDir.sizeLimit", "8Gi", "7Gi", "lies in memory",
         at=f"{WORKER}.resources.limits.memory"),
    Rule(f"{POD}.volumes[1].emptyDir.sizeLimit", "1 GB", "1G", "is the text '1 GB', not a quantity"),
    Rule(f"{POD}.terminationGracePeriodSeconds", 60, 61, "more time than the worker"),
    Rule(f"{POD}.terminationGracePeriodSeconds", ABSENT, 61, "is 30 s"),
    Rule(f"{WORKER}.env[1].value", "0", "20", "has no limit", at=f"{POD}.terminationGracePeriodSeconds"),
    # Containers
    Rule(f"{WORKER}.image", ABSENT, "a:1", "is missing"),
    Rule(f"{WORKER}.image", "Lab/Image:1", "lab/image:1", "names no image"),
    Rule(f"{WORKER}.image", "a@sha256:12", "a@sha256:" + "0" * 64, "names no image"),
    Rule(f"{WORKER}.env[0].valueFrom.secretKeyRef.key", ABSENT, "DJ_PASS", "is missing"),
    Rule(f"{WORKER}.env[0].valueFrom.secretKeyRef.name", ABSENT, "credentials", "is missing"),
    Rule(f"{WORKER}.env[0].value", "x", ABSENT, "both value and valueFrom", at=f"{WORKER}.env[0]"),
    Rule(f"{WORKER}.env[0].valueFrom", {}, {"fieldRef": {"fieldPath": "metadata.name"}}, "needs one source"),
    Rule(f"{WORKER}.env[1].value", 3, "3", 'in quotes: "3"'),
    Rule(f"{WORKER}.env[1].name", "A=B", "A", "is no variable"),
    Rule(f"{WORKER}.livenessProbe.exec", ABSENT, {"command": ["true"]}, "one way to ask",
         at=f"{WORKER}.livenessProbe"),
    Rule(f"{WORKER}.livenessProbe.successThreshold", 2, 1, "must be 1"),
    # Resources
    Rule(f'{WORKER}.resources.requests["nvidia.com/gpu"]', 2, 1, "both must be the same"),
    Rule(f'{WORKER}.resources.limits["nvidia.com/gpu"]', ABSENT, 1, "has no limit",
         at=f'{WORKER}.resources.requests["nvidia.com/gpu"]'),
    Rule(f'{WORKER}.resources.limits["nvidia.com/gpu"]', "500m", "1", "only whole ones",
         given={f'{WORKER}.resources.requests["nvidia.com/gpu"]': ABSENT}),
    Rule(f"{WORKER}.resources.limits.memory", "16 GB", "16G", "write a number with a unit"),
    Rule(f"{WORKER}.resources.limits.memory", ["16G"], "16G", "not a quantity"),
    Rule(f"{WORKER}.resources.requests.memory", "9Gi", "8Gi", "more than the limit 8Gi"),
    Rule(f"{WORKER}.resources.requests.memory", "512m", "512Mi", "m means thousandths"),
    Rule(f"{WORKER}.resources.requests.cpu", "-1", "1", "is negative"),
    Rule(f"{WORKER}.resources.limits.gpu", 1, ABSENT, "did you mean nvidia.com/gpu"),
    # Placement
    Rule(f"{REQUIREMENT}.operator", "Gte", "Gt", "did you mean Gt"),
    Rule(f"{REQUIREMENT}.values", ["24GB"], ["24000"], "whole numbers"),
    Rule(f"{REQUIREMENT}.values", ["1", "2"], ["1"], "takes one"),
    Rule(f"{REQUIREMENT}.values", ["a b"], ["a-b"], "is no value", at=f"{REQUIREMENT}.values[0]",
         given={f"{REQUIREMENT}.operator": "In"}),
    Rule(f"{REQUIREMENT}.values", [], ["a"], "In needs some", given={f"{REQUIREMENT}.operator": "In"}),
    Rule(f"{REQUIREMENT}.values", ["a"], [], "takes none", given={f"{REQUIREMENT}.operator": "Exists"}),
    Rule(f"{REQUIREMENT}.key", "gpu memory", "gpu-memory", "is no key of a label"),
    Rule(f"{TERMS}[0].matchExpressions", [], [{"key": "a", "operator": "Exists"}], "fits no node", at=f"{TERMS}[0]"),
    Rule(TERMS, [], [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}], "is empty"),
    Rule(f"{POD}.tolerations[0].value", "x", ABSENT, "Exists takes none"),
    Rule(f"{POD}.tolerations[0].key", ABSENT, "gpu", "is missing", given={f"{POD}.tolerations[0].operator": "Equal"}),
    Rule(f"{POD}.tolerations[0].tolerationSeconds", 3, ABSENT, "needs effect: NoExecute"),
    # Secrets and addresses
    Rule(f"{WORKER}.env[2].value", "localhost", "db.example.org", "is the pod itself"),
    Rule(f"{WORKER}.env[2].value", "127.0.0.1:3306", "10.0.0.1:3306", "is the pod itself"),
    Rule(f"{WORKER}.env[2].value", "/run/mysqld.sock", "db", "a socket"),
    Rule(f"{WORKER}.env[2]", {"name": "DJ_PASS", "value": "secret"}, {"name": "DJ_USER", "value": "me"},
         "holds a secret", at=f"{WORKER}.env[2].value"),
    Rule(f"{WORKER}.env[2]", {"name": "GITHUB_TOKEN", "value": "abc"}, {"name": "TOKEN_LIMIT", "value": "3"},
         "holds a secret", at=f"{WORKER}.env[2].value"),
    Rule(f"{WORKER}.env[2]", {"name": "PROXY", "value": "http://me:pw@proxy"}, {"name": "PROXY",
         "value": "http://proxy"}, "holds a secret", at=f"{WORKER}.env[2].value"),
    Rule(f"{WORKER}.args", ["https://me:$(DJ_PASS)@github.com/x"], ["https://github.com/x"],
         "DJ_PASS from a Secret into the process list", at=f"{WORKER}.args[0]"),
    Rule(f"{WORKER}.args", ["https://me:secret@github.com/x"], ["https://me@github.com/x"], "a URL with a password",
         at=f"{WORKER}.args[0]"),
    # What may work, or not everywhere
    Rule(f"{POD}.hostNetwork", True, ABSENT, "forbids", severity="warning"),
    Rule(f"{POD}.volumes[0]", {"name": "data", "hostPath": {"path": "/mnt"}}, {"name": "data",
         "persistentVolumeClaim": {"claimName": "x"}}, "forbids", at=f"{POD}.volumes[0].hostPath",
         severity="warning"),
    Rule(f"{POD}.volumes[0]", {"name": "data", "nfs": {"server": "x", "path": "/"}}, {"name": "data",
         "emptyDir": {}}, "forbids", at=f"{POD}.volumes[0].nfs", severity="warning"),
    Rule(f"{POD}.securityContext.runAsNonRoot", ABSENT, True, "forbids", at=f"{WORKER}.securityContext.runAsNonRoot",
         severity="warning"),
    Rule(f"{POD}.securityContext.runAsUser", 0, 1000, "is root", at=f"{WORKER}.securityContext.runAsUser",
         severity="warning"),
    Rule(f"{POD}.securityContext.seccompProfile", ABSENT, {"type": "RuntimeDefault"}, "forbids",
         at=f"{WORKER}.securityContext.seccompProfile", severity="warning"),
    Rule(f"{WORKER}.securityContext.privileged", True, ABSENT, "forbids", severity="warning"),
    Rule(f"{WORKER}.securityContext.allowPrivilegeEscalation", ABSENT, False, "forbids", severity="warning"),
    Rule(f"{WORKER}.securityContext.capabilities.drop", [], ["ALL"], "forbids", severity="warning"),
    Rule(f"{WORKER}.securityContext.capabilities.add", ["SYS_ADMIN"], ["NET_BIND_SERVICE"], "forbids",
         severity="warning"),
    Rule(f"{WORKER}.image", "trainloom", "trainloom:1.0", "another image tomorrow", severity="warning"),
    Rule(f"{WORKER}.image", "trainloom:latest", "trainloom@sha256:" + "a" * 64, "another image tomorrow",
         severity="warning"),
    Rule(f"{WORKER}.command", ["/bin/bash", "-c", "pip install x && python train.py"], ["/bin/bash", "-c",
         "pip install x && exec python train.py"], "exec", severity="warning"),
    Rule(f"{WORKER}.env[2].name", "TRAINLOOM_GRACE_SECONDS", "DJ_HOST", "was set before", severity="warning",
         given={f"{WORKER}.env[2].value": "60"}),
    Rule(f"{WORKER}.env[2].name", "my.name", "MY_NAME", "cannot be read by shells", severity="warning"),
    Rule(f"{WORKER}.volumeMounts[0].mountPath", "data", "/data", "relative", severity="warning"),
    Rule(f"{POD}.volumes[1].emptyDir.sizeLimit", ABSENT, "1Gi", "takes memory", severity="warning"),
    Rule(f"{WORKER}.volumeMounts[1]", {"name": "shm", "mountPath": "/mem"}, {"name": "shm", "mountPath": "/dev/shm"},
         "bus error", at=f"{WORKER}.volumeMounts", severity="warning",
         given={'metadata.labels["app.kubernetes.io/component"]': "worker", f"{WORKER}.env": [{"name": name,
         "value": value} for name, value in (("DJ_HOST", "db"), ("TRAINLOOM_MONGO_URL", "mongodb://mongo"))]}),
    Rule("spec.suspend", ABSENT, True, "queue gpus", severity="warning",
         given={'metadata.labels["kueue.x-k8s.io/queue-name"]': "gpus"}),
    Rule("spec", {"parallelism": 110, "template": ABSENT}, SPEC,
         "none that fails is replaced", at="spec.completions", severity="warning"),
    Rule("spec", {"parallelism": 110, "template": ABSENT}, SPEC, "ends the healthy ones",
         at="spec.backoffLimit", severity="warning"),
]
# fmt: on


def steps(path: str) -> list[str | int]:
    return [int(index) if index else quoted or plain for quoted, index, plain in QUOTED.findall(path)]


def put(manifest: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = steps(path)
    where: Any = manifest
    for step in parents:
        where = where[step] if isinstance(step, int) else where.setdefault(step, {})
    if value is not ABSENT:
        where[last] = copy.deepcopy(value)
    elif last in where:
        del where[last]


def changed(rule: Rule, value: Any) -> dict[str, Any]:
    manifest = copy.deepcopy(JOB)
    for path, other in rule.given.items():
        put(manifest, path, other)
    put(manifest, rule.path, value)
    return manifest


def broken(rule: Rule, findings: list[Finding]) -> list[Finding]:
    return [item for item in findings if item.path == (rule.at or rule.path) and rule.says in str(item)]


def test_the_good_manifest_has_no_finding() -> None:
    assert lint([JOB]) == []


@pytest.mark.parametrize("rule", TABLE, ids=str)
def test_a_mistake_is_found_where_it_is(rule: Rule) -> None:
    found = broken(rule, lint([changed(rule, rule.bad)]))
    assert [item.severity for item in found] == [rule.severity], lint([changed(rule, rule.bad)])
    assert found[0].problem
    assert found[0].cure


@pytest.mark.parametrize("rule", TABLE, ids=str)
def test_its_good_twin_passes(rule: Rule) -> None:
    findings = lint([changed(rule, rule.good)])
    assert not broken(rule, findings)
    assert not [item for item in findings if item.severity == "error"]


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=5), inner, max_size=2)),
    max_leaves=4,
)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([rule.path for rule in TABLE]), VALUES)
def test_whatever_stands_there_is_judged_and_never_breaks_the_lint(path: str, value: Any) -> None:
    manifest = copy.deepcopy(JOB)
    put(manifest, path, value)
    assert all(item.path and item.cure for item in lint([manifest]))


def test_what_is_wrong_in_its_type_is_said_once() -> None:
    manifest = copy.deepcopy(JOB)
    put(manifest, "spec.completions", "8")  # which is no missing value of an Indexed Job
    assert [item.problem for item in lint([manifest])] == ["is the text '8', not a whole number"]


def test_objects_that_are_not_known_are_left_alone() -> None:
    assert lint([{"kind": "Whatever", "metadata": {"name": "x"}, "spec": 3}]) == []


def test_a_finding_reads_as_one_sentence() -> None:
    manifest = copy.deepcopy(JOB)
    del manifest["spec"]["template"]["spec"]["containers"][0]["image"]
    assert [str(item) for item in lint([manifest])] == [
        f"error: Job/digits: {WORKER}.image: is missing; name the image, best with its digest"
    ]


def worker(*variables: str, config: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """A worker's Job whose container knows these variables, and its ConfigMap if it has one."""
    job = copy.deepcopy(JOB)
    put(job, f"{WORKER}.command", ["trainloom", "worker", "--once"])
    put(
        job,
        f"{WORKER}.env",
        [{"name": name, "valueFrom": {"secretKeyRef": {"name": "s", "key": name}}} for name in variables],
    )
    if config is None:
        return [job]
    put(job, f"{WORKER}.envFrom", [{"configMapRef": {"name": "settings"}}])
    return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": config}, job]


@pytest.mark.parametrize(
    ("objects", "lacking"),
    [
        (worker(), ["database", "store"]),
        (worker("DJ_HOST"), ["store"]),
        (worker("TRAINLOOM_DATABASE_URL", "TRAINLOOM_MONGO_URL"), []),
        (worker("TRAINLOOM_MONGO_URL", config={"TRAINLOOM_DATABASE_HOST": "db"}), []),
        (worker("DJ_HOST", config={"TRAINLOOM_STORE_DIR": "/mnt/store"}), []),
        (worker("DJ_HOST", config={"TRAINLOOM_PROJECT": "x"}), ["store"]),
    ],
)
def test_a_worker_needs_servers(objects: list[dict[str, Any]], lacking: list[str]) -> None:
    findings = lint(objects)
    assert [re.search(r"names no (\w+)", str(item))[1] for item in findings] == lacking  # type: ignore[index]


def test_variables_from_elsewhere_are_trusted() -> None:
    objects = worker(config={})[1:]
    assert lint(objects) == []


@pytest.mark.parametrize("path", ["/etc/trainloom", "/etc/trainloom/credentials.yaml"])
def test_settings_in_mounted_files_are_trusted(path: str) -> None:
    (job,) = worker()
    job["spec"]["template"]["spec"]["volumes"].append({"name": "settings", "secret": {"secretName": "settings"}})
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["volumeMounts"].append({"name": "settings", "mountPath": path})
    assert lint([job]) == []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TRAINLOOM_DATABASE_URL", "postgresql://me:secret@db/lab", "holds a secret"),
        ("TRAINLOOM_DATABASE_URL", "postgresql://me@db/lab?password=secret", "holds a secret"),
        # Characters that should have been escaped:
        ("TRAINLOOM_DATABASE_URL", "postgresql://me:a/secret@db/lab", "holds a secret"),
        ("TRAINLOOM_MONGO_URL", "mongodb://me:a#b?secret@db", "holds a secret"),
        ("TRAINLOOM_DATABASE_URL", "postgresql://me@localhost:5432/lab", "is the pod itself"),
        ("TRAINLOOM_DATABASE_URL", "postgresql:///lab?host=/run/postgresql", "a socket"),
        ("TRAINLOOM_DATABASE_URL", "postgresql://%2Frun%2Fpostgresql/lab", "a socket"),
        ("TRAINLOOM_DATABASE_URL", "db.example.org", "is no URL"),
        ("TRAINLOOM_MONGO_URL", "mongodb://a.example.org,127.0.0.1:27017/?replicaSet=r", "is the pod itself"),
        ("TRAINLOOM_MONGO_URL", "mongodb://%2Ftmp%2Fmongodb-27017.sock", "a socket"),
        ("TRAINLOOM_MONGO_URL", "mongodb://[::1]:27017", "is the pod itself"),
        ("DJ_HOST", "0.0.0.0", "is the pod itself"),
        ("DJ_PASS", "secret", "holds a secret"),
        ("PGPASSWORD", "secret", "holds a secret"),
        ("MYSQL_PWD", "secret", "holds a secret"),
        ("PWD", "/workspace", None),
        ("PGPASSFILE", "/run/secrets/pgpass", None),
        ("AWS_SECRET_ACCESS_KEY", "secret", "holds a secret"),
        ("AWS_ACCESS_KEY_ID", "AKIA", None),
        ("a key", "x", "is no key"),
        ("TRAINLOOM_DATABASE_URL", "postgresql://me@db.example.org:5432/lab", None),
        ("TRAINLOOM_MONGO_URL", "mongodb://a.example.org,b.example.org:27017/?replicaSet=r", None),
        ("TRAINLOOM_MONGO_URL", "mongodb+srv://cluster.example.org", None),
        ("TRAINLOOM_PROJECT", "localhost", None),
        ("DJ_PASS", "", None),
    ],
)
def test_a_config_map_shows_no_secret_and_addresses_that_pods_reach(name: str, value: str, says: str | None) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {name: value}}
    findings = lint([config])
    assert len(findings) == bool(says)
    assert all(says in str(item) and name in item.path and "secret@" not in str(item) for item in findings if says)


def test_a_binding_needs_the_namespace_of_an_account() -> None:
    binding: dict[str, Any] = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "submitter"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "submitter"},
        "subjects": [{"kind": "ServiceAccount", "name": "submitter"}],
    }
    assert [item.path for item in lint([binding])] == ["subjects[0].namespace"]
    binding["subjects"][0]["namespace"] = "lab"
    assert lint([binding]) == []
