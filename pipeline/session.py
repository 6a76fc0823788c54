"""The one door: servers, connection, tables, store and services of a project."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datajoint.hash_registry import get_store_backend
from pydantic import SecretStr

from datasets_impl import mongo_access
from schemas import binding, project, schema
from schemas.training_result import EXTERNAL_STORE

from . import declaration
from .connection import HealingConnection, open_connection
from .errors import ConfigurationError, SessionError
from .event_collection import EventCollection
from .event_file import EventFile
from .event_spool import EventSpool
from .events import EventLog
from .file_digest import FileDigests
from .folders import Folders
from .home import Home
from .models import ModelLibrary
from .mongo_database import BLOCKS, MongoDatabase
from .prediction_runner import PredictionRunner
from .prober import DatasetProber
from .resolver import ClassResolver
from .runner import TaskRunner
from .script_runner import ScriptTaskRunner
from .services.mongo import MongoServer, MongoUnavailable
from .services.postgres import PostgresServer
from .settings import Database, Settings, without_password
from .store import datajoint_adapter
from .store.errors import StoreError
from .store.folder import FolderStore
from .store.gridfs import GridFSStore
from .store.interface import Store

logger = logging.getLogger("trainloom")

EVENT_SPOOL_BYTES = 64 << 20  # of events that wait on this node, for one process
MONGO_TIMEOUT = 10_000  # ms, to find a server
IN_POD = Path("/var/run/secrets/kubernetes.io")


@dataclass
class Session:
    """An open project. Use it as a context manager or call `close`.

    Attributes
    ----------
    settings : what the session was opened with.
    connection : the healing DataJoint connection, in UTC.
    store : where objects are kept.
    folders : data files, node cache, weights.
    project_id : 32 hexadecimal digits that the SQL side and the store share.
    home : the project's home, or None where every server is elsewhere.
    store_note : why the store is not GridFS, or empty.
    events : what trainings, validations and tests report while they run.
    """

    settings: Settings
    connection: HealingConnection
    store: Store
    folders: Folders
    project_id: str
    home: Home | None
    store_note: str
    events: EventLog
    _cleanup: ExitStack

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the servers go on running. Closing twice is harmless."""
        global _open
        self._cleanup.close()
        if _open is self:
            _open = None

    def __repr__(self) -> str:
        return f"<trainloom session: project {self.settings.project}, {self.connection!r}, store {self.store.where}>"


_open: Session | None = None


def connect(settings: Settings | None = None, *, create_home: bool = True, **overrides: Any) -> Session:
    """Open the project: start or find the servers, connect, declare the tables once, bind the services.

    Parameters
    ----------
    settings : all settings at once; by default they are read from environment and files.
    create_home : make a home in the working folder where none is found and an embedded server needs one.
    overrides : single settings by name, such as ``dataset_dir``.

    Raises
    ------
    ConfigurationError
        If a setting, a folder or a credential is not usable.
    DatabaseUnavailable
        If no database answers.
    SessionError
        If a session with other settings is open.
    """
    global _open
    wanted = settings if settings is not None else Settings.load(overrides)
    if _open is not None:
        if _open.settings == wanted:
            return _open
        raise SessionError("a session with other settings is open; close it first: one project per process")
    with ExitStack() as cleanup:
        session = _build(wanted, create_home, cleanup)
        session._cleanup = cleanup.pop_all()
    _open = session
    return session


def _build(settings: Settings, create_home: bool, cleanup: ExitStack) -> Session:
    home = _home(settings, create_home)
    folders = _folders(settings, home)
    database = settings.database or _embedded_database(home)
    connection = open_connection(
        database, stores={EXTERNAL_STORE: external_store_spec(settings)}, reconnect_seconds=settings.reconnect_seconds
    )
    cleanup.callback(connection.close)
    cleanup.callback(schema.deactivate)
    declaration.activate(settings, connection, home)
    project_id = project.Project().fetch1("project_id")
    digests = FileDigests(folders.dataset_cache_dir)
    store, note, mongo = _store(settings, home, project_id, folders, digests, cleanup)
    mongo_access.lend(mongo, note or "the setting store is folder; set it to auto or gridfs")
    cleanup.callback(mongo_access.lend, None)
    datajoint_adapter.attach(settings.schema_name, store)
    cleanup.callback(datajoint_adapter.detach, settings.schema_name)
    _check_external_store(connection)
    events = EventLog(
        EventCollection(mongo.database, f"{settings.schema_name}.events")
        if mongo
        else EventFile(_event_file(settings, home)),
        EventSpool(folders.model_save_dir / "events" / project_id, EVENT_SPOOL_BYTES),
    )
    cleanup.callback(events.close)
    _bind(settings, home, database, store, folders, digests, events, cleanup)
    return Session(settings, connection, store, folders, project_id, home, note, events, cleanup)


def _home(settings: Settings, create: bool) -> Home | None:
    """The home, if anything of the session lives in one."""
    needed = settings.database is None or (
        settings.mongo_url is None and not (settings.store == "folder" and settings.store_dir is not None)
    )
    folders = (settings.dataset_dir, settings.dataset_cache_dir, settings.model_save_dir)
    found = Home.find()
    if found is not None or not (needed or None in folders):
        return found
    if needed and IN_POD.exists():
        raise ConfigurationError(
            "this pod has no database_url or mongo_url; set TRAINLOOM_DATABASE_URL and TRAINLOOM_MONGO_URL from a "
            "secret"
        )
    if not create:
        raise ConfigurationError(
            "there is no trainloom home here or above; run `trainloom init` to make one, or set TRAINLOOM_HOME"
        )
    home = Home.create()
    logger.warning("made the home %s", home.path)
    return home


def _folders(settings: Settings, home: Home | None) -> Folders:
    chosen = {
        "dataset_dir": settings.dataset_dir or (home.dataset_dir if home else None),
        "dataset_cache_dir": settings.dataset_cache_dir or (home.cache_dir if home else None),
        "model_save_dir": settings.model_save_dir or (home.model_dir if home else None),
    }
    missing = [name for name, path in chosen.items() if path is None]
    if missing:
        raise ConfigurationError(
            f"{missing[0]} is not set and there is no home to put it in; set TRAINLOOM_{missing[0].upper()}"
        )
    return Folders(**{name: Path(path) for name, path in chosen.items() if path is not None})


def _embedded_database(home: Home | None) -> Database:
    assert home is not None, "_home makes one wherever the database is embedded"
    address = PostgresServer(home).ensure_running()
    return Database(
        backend="postgresql",
        host=str(address.socket_dir),
        port=address.port,
        user=address.user,
        name=address.dbname,
        tls=False,
    )


def external_store_spec(settings: Settings) -> dict[str, Any]:
    """DataJoint's description of the store for blobs; one that the user put into ``dj.config['stores']`` comes
    first."""
    import datajoint as dj

    own = dict(dj.config.stores).get(EXTERNAL_STORE)
    return dict(own) if own else {"protocol": datajoint_adapter.PROTOCOL, "location": settings.schema_name}


def _check_external_store(connection: HealingConnection) -> None:
    """A store that cannot be used is found here and not after the first training."""
    try:
        get_store_backend(EXTERNAL_STORE, config=connection._config)
    except Exception as error:
        raise ConfigurationError(f"the DataJoint store {EXTERNAL_STORE} cannot be used: {error}") from error


def _store(
    settings: Settings,
    home: Home | None,
    project_id: str,
    folders: Folders,
    digests: FileDigests,
    cleanup: ExitStack,
) -> tuple[Store, str, MongoDatabase | None]:
    """The store; where it is not the wanted GridFS, a sentence that says why; the MongoDB database if one is used."""
    if settings.store == "folder":
        return _folder_store(settings, home, project_id, digests), "", None
    try:
        url = settings.mongo_url.get_secret_value() if settings.mongo_url else _embedded_mongo(home)
    except MongoUnavailable as error:
        if settings.store == "gridfs":
            raise
        note = f"objects are kept in a folder: {error}"
        logger.warning("%s", note)
        return _folder_store(settings, home, project_id, digests), note, None
    mongo = _mongo_database(url, settings, folders, cleanup)
    store = GridFSStore(mongo.database, bucket=f"{settings.schema_name}.objects", digests=digests)
    _compare_project(store, f"MongoDB at {without_password(url)}", settings, project_id)
    return store, "", mongo


def _embedded_mongo(home: Home | None) -> str:
    assert home is not None, "_home makes one wherever MongoDB is embedded"
    return MongoServer(home).ensure_running().url


def _event_file(settings: Settings, home: Home | None) -> Path:
    """Beside the folder store, whose folder `_folder_store` has found."""
    folder = settings.store_dir or (home.store_dir if home is not None else None)
    assert folder is not None, "_folder_store refuses that"
    return folder / f"{settings.schema_name}.events.sqlite3"


def _folder_store(settings: Settings, home: Home | None, project_id: str, digests: FileDigests) -> FolderStore:
    folder = settings.store_dir or (home.store_dir if home is not None else None)
    if folder is None:
        raise ConfigurationError(
            "store_dir is not set and there is no home to put the store in; set TRAINLOOM_STORE_DIR"
        )
    store = FolderStore(folder, digests=digests)
    _compare_project(store, store.where, settings, project_id)
    return store


def _mongo_database(url: str, settings: Settings, folders: Folders, cleanup: ExitStack) -> MongoDatabase:
    mongo = MongoDatabase(
        SecretStr(url),
        settings.mongo_database,
        settings.schema_name,
        cache_folder=folders.dataset_cache_dir / BLOCKS,
        cache_bytes=settings.dataset_cache_bytes,
        patience=settings.store_away_seconds,
        selection_timeout=MONGO_TIMEOUT,
    )
    cleanup.callback(mongo.close)
    return mongo


def _compare_project(store: Store, label: str, settings: Settings, project_id: str) -> None:
    """The store must belong to the same project as the tables: otherwise one side would collect the other's objects."""
    try:
        theirs = store.claim(project_id)
    except StoreError as error:
        raise ConfigurationError(f"{label} cannot be used: {error}") from error
    if theirs != project_id:
        raise ConfigurationError(
            f"{label} belongs to another project than the tables of {settings.schema_name}; "
            "correct mongo_url, mongo_database, store_dir or project"
        )


def _bind(
    settings: Settings,
    home: Home | None,
    database: Database,
    store: Store,
    folders: Folders,
    digests: FileDigests,
    events: EventLog,
    cleanup: ExitStack,
) -> None:
    code_dir = (settings.code_dir or Path.cwd()).resolve()
    resolver = ClassResolver(settings.allowed_packages, code_dir)
    prober = DatasetProber(resolver, digests, store, folders.dataset_dir, mirror=settings.mirror_datasets)
    runner = TaskRunner(settings, database, resolver, store, folders, code_dir, events)
    cleanup.callback(runner.close)
    models = ModelLibrary(resolver, store, folders)
    scripts = ScriptTaskRunner(settings, home, code_dir)
    predictions = PredictionRunner(settings, resolver, store, folders, code_dir, models, runner)
    binding.bind(binding.Services(resolver, prober, runner, models, scripts, predictions))
    cleanup.callback(binding.bind, None)
