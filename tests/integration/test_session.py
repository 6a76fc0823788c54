"""The one door: opened by many at once, twice, on the wrong store, without a mongod."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import session as door
from pipeline.errors import ConfigurationError, SessionError
from pipeline.services import MongoUnavailable
from pipeline.services.mongo import MongoServer
from pipeline.session import Session, connect
from pipeline.settings import Settings
from pipeline.store.folder import FolderStore
from schemas.attempt import Attempt
from schemas.errors import NotConnected
from schemas.prediction import Prediction
from schemas.prediction_task import PredictionTask
from schemas.project import VERSION, Project
from trainloom import ModelConfig, ScriptResult, ScriptTask, StoredDataset, TrainingConfig, TrainingResult

ROOT = Path(__file__).parents[2]
OPEN = """
from trainloom import connect, TrainingResult
with connect() as session:
    print(session.project_id, len(TrainingResult()), len(TrainingResult().jobs))
"""


def open_at_once() -> None:
    """Five processes open the project at the same time; all see the same."""
    opened = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(5)
    ]
    printed = [process.communicate() for process in opened]
    assert [process.returncode for process in opened] == [0] * 5, printed
    assert len({out for out, _ in printed}) == 1
    assert printed[0][0].split()[1:] == ["0", "0"]


@pytest.mark.slow
def test_many_processes_that_open_a_new_project_at_once_declare_it_once(backend: str) -> None:
    open_at_once()


def make_older(session: Session) -> None:
    """Leave the project as the release before made it, and close it."""
    added = (
        Prediction().jobs,
        Prediction.Metric(),
        Prediction.Provenance(),
        Prediction(),
        PredictionTask(),
        ScriptResult().jobs,
        ScriptResult(),
        ScriptTask(),
        StoredDataset(),
        TrainingResult.Usage(),
        Attempt.Usage(),
        Attempt.Pod(),
        TrainingConfig.Need(),
    )
    for table in added:
        session.connection.query(f"DROP TABLE {table.full_table_name}")
    Project().update1({"project_key": 1, "tables_version": 1})
    session.close()


@pytest.mark.slow
def test_many_processes_that_open_an_older_project_at_once_add_its_tables_once(
    open_session: Callable[..., Session], backend: str
) -> None:
    make_older(open_session())
    open_at_once()
    open_session()
    assert Project().fetch1("tables_version") == VERSION


def test_opening_again_gives_the_same_session_and_another_one_is_refused(postgres_session: Session) -> None:
    assert connect() is postgres_session
    with pytest.raises(SessionError, match="close it first"):
        connect(num_workers=3)


def test_a_closed_session_can_be_opened_anew(open_session: Callable[..., Session]) -> None:
    with open_session() as session:
        assert len(ModelConfig()) == 0
    session.close()
    with pytest.raises(NotConnected):
        len(ModelConfig())
    open_session(num_workers=1)
    assert len(ModelConfig()) == 0


def test_a_failed_opening_leaves_nothing_open(
    project_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINLOOM_STORE", "gridfs")
    monkeypatch.setenv("TRAINLOOM_MONGO_URL", "mongodb://127.0.0.1:1")
    monkeypatch.setattr(door, "MONGO_TIMEOUT", 300)
    with pytest.raises(ConfigurationError, match=r"MongoDB at mongodb://127\.0\.0\.1:1 cannot be used"):
        connect()
    with pytest.raises(NotConnected):
        len(ModelConfig())
    monkeypatch.delenv("TRAINLOOM_MONGO_URL")
    with connect():
        assert len(ModelConfig()) == 0


def test_a_store_of_another_project_is_refused(
    open_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session()
    name = f"{session.settings.schema_name}.project"
    import pymongo

    from pipeline.home import Home

    home = session.home
    assert isinstance(home, Home)
    session.close()
    with pymongo.MongoClient(MongoServer(home).address.url) as client:
        client[session.settings.mongo_database][name].update_one({"_id": "project"}, {"$set": {"project_id": "0" * 32}})
    with pytest.raises(ConfigurationError, match="belongs to another project"):
        open_session()


def test_without_a_mongod_the_folder_store_serves_and_that_is_said(
    open_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unavailable(server: MongoServer) -> Any:
        raise MongoUnavailable("mongod misses libcurl.so.4; run `apt-get install libcurl4`")

    monkeypatch.setattr(MongoServer, "ensure_running", unavailable)
    session = open_session()
    assert isinstance(session.store, FolderStore)
    assert "libcurl4" in session.store_note
    assert "libcurl4" in caplog.text
    session.close()
    with pytest.raises(MongoUnavailable):
        open_session(store="gridfs")


def test_a_project_of_an_older_release_gets_the_tables_that_came_since(
    open_session: Callable[..., Session], backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_older(open_session())
    open_session()
    assert len(ScriptResult()) == len(ScriptTask()) == len(StoredDataset()) == 0
    assert len(Prediction()) == len(PredictionTask()) == len(TrainingConfig.Need()) == 0
    assert len(TrainingResult.Usage()) == len(Attempt.Usage()) == len(Attempt.Pod()) == 0
    assert Project().fetch1("tables_version") == VERSION
    assert "added the tables of version" in caplog.text


def test_tables_of_another_version_are_refused(open_session: Callable[..., Session]) -> None:
    from schemas.project import Project

    session = open_session()
    Project().update1({"project_key": 1, "tables_version": 99})
    session.close()
    with pytest.raises(ConfigurationError, match="are of version 99"):
        open_session()


def test_a_user_who_may_only_read_and_write_can_work(
    open_session: Callable[..., Session], project_environment: Any
) -> None:
    """Workers declare nothing: rights on the tables suffice."""
    session = open_session()
    schema, address = session.settings.schema_name, session.connection.conn_info
    for statement in (
        f"CREATE ROLE {schema}_worker LOGIN",
        f'GRANT USAGE ON SCHEMA "{schema}" TO {schema}_worker',
        f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema}" TO {schema}_worker',
    ):
        session.connection.query(statement)
    session.close()
    worker = open_session(
        database_url=f"postgresql://{schema}_worker@{address['host'].replace('/', '%2F')}:{address['port']}/trainloom",
        database_tls=False,
    )
    assert TrainingResult().populate(reserve_jobs=True) == {"success_count": 0, "error_list": []}
    worker.close()
    session = open_session()
    session.connection.query(f"DROP OWNED BY {schema}_worker")
    session.connection.query(f"DROP ROLE {schema}_worker")


def test_no_home_is_made_where_none_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINLOOM_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="run `trainloom init`"):
        connect(create_home=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "TRAINLOOM_NUM_WORKER",
            "2",
            "the environment variable TRAINLOOM_NUM_WORKER sets 'num_worker', which is no setting",
        ),
        ("TRAINLOOM_NUM_WORKERS", "many", "num_workers from the environment variable TRAINLOOM_NUM_WORKERS"),
        ("TRAINLOOM_PROJECT", "My Project", "project from the environment variable TRAINLOOM_PROJECT: .*lower-case"),
        ("TRAINLOOM_ALLOWED_PACKAGES", "os.path", "is no package root"),
        ("TRAINLOOM_DATABASE_URL", "sqlite:///x", "must begin with postgresql:// or mysql://"),
        ("DJ_HOST", "host:port", "has no valid port"),
    ],
)
def test_a_wrong_setting_is_named_with_where_it_came_from(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=message):
        _ = Settings.load().database


@pytest.mark.feature("S15", "N10")
def test_settings_come_from_the_command_line_the_environment_files_and_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trainloom.d").mkdir()
    (tmp_path / "trainloom.d" / "10.yaml").write_text("num_workers: 1\nproject: from_file\ndataset_dir: /data\n")
    (tmp_path / "given.yaml").write_text("project: from_config\n")
    assert Settings.load().project == "from_file"
    assert Settings.load(config=tmp_path / "given.yaml").project == "from_config"
    monkeypatch.setenv("TRAINLOOM_PROJECT", "from_environment")
    loaded = Settings.load({"project": None}, config=tmp_path / "given.yaml")
    assert (loaded.project, loaded.num_workers, loaded.dataset_dir, loaded.device) == (
        "from_environment",
        1,
        Path("/data"),
        "auto",
    )
    assert Settings.load({"project": "from_caller"}).project == "from_caller"


def test_datajoints_own_variables_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DJ_HOST": "db.lab:3307", "DJ_USER": "me", "DJ_PASS": "secret"}.items():
        monkeypatch.setenv(name, value)
    database = Settings.load().database
    assert database is not None
    assert (database.backend, database.host, database.port, database.user) == ("mysql", "db.lab", 3307, "me")
    assert database.password.get_secret_value() == "secret"
