"""The tables of a project, declared once, under a lock; later sessions only bind them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from schemas import (  # noqa: F401 - tables to declare
    attempt,
    checkpoint,
    prediction,
    project,
    schema,
    script_result,
    stored_dataset,
    training_result,
)

from .connection import HealingConnection
from .errors import ConfigurationError, SessionError
from .home import Home
from .job_table import declare_indexes
from .settings import Settings

logger = logging.getLogger("trainloom")

DECLARATION_WAIT = 120  # s, for another process that declares the tables


def activate(settings: Settings, connection: HealingConnection, home: Home | None) -> None:
    """Bind the tables; declare them first, under a lock, where they are not all there."""
    if not _declared(settings, connection):
        with _declaration_lock(settings, connection):
            if not _declared(settings, connection):
                _declare(settings, connection)
                _write_project(settings, home)
                return
    schema.activate(settings.schema_name, connection, create=False)
    stored = _tables_version()
    if project.GROWN_SINCE <= stored < project.VERSION:
        schema.deactivate()
        with _declaration_lock(settings, connection):
            _declare(settings, connection)
            if _tables_version() < project.VERSION:
                project.Project().update1({"project_key": 1, "tables_version": project.VERSION})
                logger.warning("added the tables of version %d to %s", project.VERSION, settings.schema_name)
    elif stored != project.VERSION:
        raise ConfigurationError(
            f"the tables of {settings.schema_name} are of version {stored}, this trainloom needs {project.VERSION}; "
            "use the release that made them"
        )


def _declare(settings: Settings, connection: HealingConnection) -> None:
    """Bind the tables and declare those that are missing; the lock is held."""
    schema.activate(settings.schema_name, connection, create=True)
    declare_indexes(training_result.TrainingResult())  # and with them the job table
    declare_indexes(script_result.ScriptResult())
    declare_indexes(prediction.Prediction())


def _tables_version() -> int:
    return int(project.Project().fetch1("tables_version"))


def _declared(settings: Settings, connection: HealingConnection) -> bool:
    """Whether the last thing that a declaration writes is there."""
    found = connection.query(
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = %s AND table_name = %s",
        args=(settings.schema_name, project.Project.table_name),
    )
    if not found.fetchone()[0]:
        return False
    table = connection.adapter.make_full_table_name(settings.schema_name, project.Project.table_name)
    return bool(connection.query(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


def _write_project(settings: Settings, home: Home | None) -> None:
    """The last step of a declaration. A home's own id is used, so that a store whose tables were lost is still
    recognised."""
    own = (
        uuid.uuid5(uuid.UUID(hex=home.project_id), settings.schema_name)
        if home is not None and settings.database is None
        else uuid.uuid4()
    )
    project.Project().insert1(
        {"project_key": 1, "project_id": own.hex, "tables_version": project.VERSION}, skip_duplicates=True
    )


@contextmanager
def _declaration_lock(settings: Settings, connection: HealingConnection) -> Iterator[None]:
    """The project's lock in the database: several processes that declare at once get in each other's way."""
    name = f"trainloom:{settings.schema_name}"
    postgres = connection.adapter.backend == "postgresql"
    if postgres:
        connection.query(f"SET lock_timeout = '{DECLARATION_WAIT}s'")
        connection.query("SELECT pg_advisory_lock(hashtext(%s))", args=(name,))
    elif not connection.query("SELECT GET_LOCK(%s, %s)", args=(name, DECLARATION_WAIT)).fetchone()[0]:
        raise SessionError(
            f"another process has been declaring the tables of {settings.schema_name} for {DECLARATION_WAIT} s; try "
            "again"
        )
    try:
        yield
    finally:
        connection.query(
            "SELECT pg_advisory_unlock(hashtext(%s))" if postgres else "SELECT RELEASE_LOCK(%s)", args=(name,)
        )
        if postgres:
            connection.query("SET lock_timeout = DEFAULT")
