"""The job table of a computed table: DataJoint's own, with indexes that serve claims."""

from __future__ import annotations

from typing import Any

from datajoint.condition import AndList, Not

from .claimer import index_name
from .transaction import undisturbed

SKIP_DUPLICATES = {"postgresql": ("INSERT", " ON CONFLICT DO NOTHING"), "mysql": ("INSERT IGNORE", "")}
# Jobs queued at once from which PostgreSQL is told to look at them: its own look comes up to a minute later, and until
# then it would plan the claims for the queue as it was. Prepared statements are planned anew too, in all sessions.
MANY = 200
JOB_COLUMNS = (
    "status",
    "priority",
    "scheduled_time",
    "reserved_time",
    "completed_time",
    "error_message",
    "error_stack",
    "host",
    "pid",
    "connection_id",
    "version",
)


def job_table(table: Any) -> Any:
    """The job table of a computed table, made once per session: for each object of `table` DataJoint would ask the
    database anew for its columns and foreign keys, a dozen statements."""
    cls = type(table)
    if cls._jobs is None:
        cls._jobs = table.jobs  # found by all objects of the class until `schema.deactivate`
    return cls._jobs


def declare_indexes(table: Any) -> None:
    """Indexes that serve the claims; without them each claim sorts the whole queue. For whoever declares the tables."""
    jobs = job_table(table)
    adapter = jobs.connection.adapter
    (key,) = (adapter.quote_identifier(name) for name in jobs.primary_key)
    status, priority, scheduled = map(adapter.quote_identifier, ("status", "priority", "scheduled_time"))
    if adapter.backend == "postgresql":
        condition = f" WHERE {status} = 'pending'"
        columns = {"queued": f"{priority}, {scheduled}, {key}", "random": f"{priority}, {key}"}
    else:  # DataJoint's own index serves the original order: on MySQL every index ends in the primary key
        condition, columns = "", {"random": f"{status}, {priority}, {key}"}
    for name, listed in columns.items():
        index = adapter.quote_identifier(index_name(table, name))
        jobs.connection.query(f"CREATE INDEX IF NOT EXISTS {index} ON {jobs.full_table_name} ({listed}){condition}")


def enqueue(table: Any, restrictions: tuple[Any, ...] = ()) -> None:
    """Put every key without result and job into the job table, with its task's priority.

    What others queue, make and publish meanwhile is not queued once more: by the time that a large insertion comes to
    its key, the job it had is gone again. So a second statement, which sees all that was published before, takes such
    jobs out before anybody else sees them.
    """
    connection, insertion, removal = table.connection, _insertion(table, restrictions), _removal(table)

    def fill() -> int:
        with connection.transaction:
            queued = int(connection.query(insertion).rowcount)
            if queued:
                connection.query(removal)
        return queued

    if undisturbed(connection, fill) >= MANY and connection.adapter.backend == "postgresql":
        connection.query(f"ANALYZE {job_table(table).full_table_name}")


def _insertion(table: Any, restrictions: tuple[Any, ...]) -> str:
    """SQL that queues what is missing."""
    jobs, adapter = job_table(table), table.connection.adapter
    quote = adapter.quote_identifier
    missing = (table.key_source & AndList(restrictions)) - table.proj()
    # The job table's key has another lineage than the task's, although it is the same key.
    missing = missing.restrict(Not(jobs), semantic_check=False).proj("priority")
    columns = ", ".join(quote(name) for name in (*jobs.primary_key, "status", "priority"))
    picked = ", ".join(quote(name) for name in jobs.primary_key)
    verb, suffix = SKIP_DUPLICATES[adapter.backend]
    return (
        f"{verb} INTO {jobs.full_table_name} ({columns}) SELECT {picked}, 'pending', {quote('priority')} FROM "
        f"({missing.make_sql()}) AS missing{suffix}"
    )


def _removal(table: Any) -> str:
    """SQL that takes what has a result out of the waiting jobs."""
    jobs, results = job_table(table).full_table_name, table.full_table_name
    quote = table.connection.adapter.quote_identifier
    (key,) = map(quote, job_table(table).primary_key)
    return (
        f"DELETE FROM {jobs} WHERE {quote('status')}='pending' AND EXISTS "
        f"(SELECT 1 FROM {results} WHERE {results}.{key} = {jobs}.{key})"
    )
