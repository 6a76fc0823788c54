"""A group that KEDA starts: a Job with one worker for each task that waits (https://keda.sh, ScaledJob)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .metadata import metadata
from .values import Group, Values

API_VERSION = "keda.sh/v1alpha1"

# As `trainloom status` counts pending tasks; those that no worker has put into the job table yet have no row there.
WAITING = """\
SELECT COUNT(*)
FROM "{schema}"."training_task" AS task
LEFT JOIN "{schema}"."__training_result" AS result USING (training_task_md5_hash)
LEFT JOIN "{schema}"."~~training_result" AS job USING (training_task_md5_hash)
LEFT JOIN "{schema}"."warm_start" AS warm USING (training_task_md5_hash)
LEFT JOIN "{schema}"."__training_result" AS source
  ON source.training_task_md5_hash = warm.warm_start_task_md5_hash
WHERE result.training_task_md5_hash IS NULL
  AND (warm.training_task_md5_hash IS NULL OR source.training_task_md5_hash IS NOT NULL)
  AND (job.status IS NULL OR job.status = 'pending' AND job.scheduled_time <= CURRENT_TIMESTAMP AT TIME ZONE 'UTC')
"""


def objects(
    values: Values, name: str, group: Group, job: Mapping[str, Any], labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The ScaledJob of a group, and how KEDA gets into the database.

    Parameters
    ----------
    job : the specification of the Jobs, one worker each.
    """
    scaling = group.autoscale
    assert scaling is not None, "only groups that scale are handed over"
    schema = f"{values.settings.get('schema_prefix', '')}{values.settings.get('project', 'trainloom')}"
    trigger = {
        "type": "postgresql",
        "metadata": {"query": WAITING.format(schema=schema), "targetQueryValue": "1"},
        "authenticationRef": {"name": name},
    }
    connection = {"parameter": "connection", "name": scaling.secret, "key": scaling.key}
    return [
        {
            "apiVersion": API_VERSION,
            "kind": "TriggerAuthentication",
            "metadata": metadata(values, name, labels),
            "spec": {"secretTargetRef": [connection]},
        },
        {
            "apiVersion": API_VERSION,
            "kind": "ScaledJob",
            "metadata": metadata(values, name, labels),
            "spec": {
                "jobTargetRef": dict(job),
                "pollingInterval": scaling.polling_seconds,
                "minReplicaCount": 0,
                "maxReplicaCount": group.workers,
                # Tasks that a worker has taken do not wait any more, so they are not counted twice.
                "scalingStrategy": {"strategy": "accurate"},
                # A changed ScaledJob lets running workers finish.
                "rollout": {"strategy": "gradual"},
                "triggers": [trigger],
            },
        },
    ]
