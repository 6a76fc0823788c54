"""What a Kubernetes API server refuses, in its words, as far as manifests of the tests go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The fields that a strict server knows, as far as manifests of the tests go.
FIELDS = {
    "": "apiVersion kind metadata spec status data stringData type rules subjects roleRef automountServiceAccountToken "
    "imagePullSecrets immutable",
    "spec": "parallelism completions completionMode backoffLimit backoffLimitPerIndex maxFailedIndexes "
    "podFailurePolicy podReplacementPolicy template suspend activeDeadlineSeconds ttlSecondsAfterFinished "
    "selector manualSelector successPolicy managedBy clusterIP ports accessModes resources storageClassName",
    "spec.template": "metadata spec",
    "spec.template.spec": "containers initContainers volumes restartPolicy affinity tolerations nodeSelector "
    "serviceAccountName automountServiceAccountToken securityContext terminationGracePeriodSeconds priorityClassName "
    "runtimeClassName imagePullSecrets hostNetwork subdomain hostname schedulingGates topologySpreadConstraints "
    "enableServiceLinks dnsPolicy setHostnameAsFQDN shareProcessNamespace hostIPC hostPID schedulerName",
    "spec.template.spec.containers": "name image command args env envFrom resources volumeMounts workingDir "
    "securityContext imagePullPolicy livenessProbe readinessProbe startupProbe ports lifecycle "
    "terminationMessagePolicy terminationMessagePath restartPolicy stdin tty",
}


class Refused(Exception):
    """The answer is an error."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
        self.code = code


def check_fields(thing: Mapping[str, Any]) -> None:
    """Refuse a field that is not known, as ``fieldValidation=Strict`` does."""
    for path, known in FIELDS.items():
        places: list[Any] = [thing]
        for part in filter(None, path.split(".")):
            found = [place.get(part) for place in places if isinstance(place, dict) and place.get(part)]
            places = [item for place in found for item in (place if isinstance(place, list) else [place])]
        for place in places:
            for name in set(place) - set(known.split()):
                where = f"{path}.{name}" if path else name
                raise Refused(400, "BadRequest", f'strict decoding error: unknown field "{where}"')


def check_job(thing: Mapping[str, Any]) -> None:
    """Some of what the real server finds invalid in a Job."""
    if thing.get("kind") != "Job":
        return
    spec, problems = thing["spec"], []
    if spec.get("completionMode") == "Indexed" and spec.get("completions") is None:
        problems.append("spec.completions: Required value: when completion mode is Indexed")
    if spec.get("maxFailedIndexes", 0) > (spec.get("completions") or 0):
        problems.append(
            f"spec.maxFailedIndexes: Invalid value: {spec['maxFailedIndexes']}: must be less than or equal "
            "to completions"
        )
    if spec["template"]["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
        problems.append('spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"')
    if problems:
        raise Refused(422, "Invalid", f'Job.batch "{thing["metadata"]["name"]}" is invalid: {", ".join(problems)}')
