"""A connection that is lost in every way we know, on both backends."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from datajoint.errors import DataJointError, LostConnectionError
from datajoint.lineage import lineage_table_exists

from pipeline.connection import HealingConnection, open_connection
from pipeline.errors import ConfigurationError, DatabaseUnavailable
from pipeline.services import PostgresServer
from pipeline.session import Session, connect
from pipeline.settings import Database, Settings, without_password
from pipeline.transaction import is_deadlock
from schemas.training_config import TrainingConfig
from tests.integration.test_bad_input import TRAINING

KILL = {"postgresql": "SELECT pg_terminate_backend(%s)", "mysql": "KILL CONNECTION %s"}
SLEEP = {"postgresql": "SELECT pg_sleep(1)", "mysql": "SELECT SLEEP(1)"}
SLEEPING = {
    "postgresql": f"SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query = '{SLEEP['postgresql']}'",
    "mysql": f"SELECT id FROM information_schema.processlist WHERE info = '{SLEEP['mysql']}'",
}

LOCK_WAITS = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted",
    "mysql": "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}


def other_connection(session: Session) -> HealingConnection:
    """A second connection to the same server."""
    info = session.connection.conn_info
    database = Database(
        backend=session.connection.adapter.backend,
        host=info["host"],
        port=info["port"],
        user=info["user"],
        name=info["database_name"],
        tls=False,
    )
    return open_connection(database, stores={}, reconnect_seconds=5)


def terminate(session: Session) -> None:
    """An administrator ends the connection."""
    other = other_connection(session)
    other.query(KILL[other.adapter.backend] % session.connection.connection_id)
    other.close()


def cut_the_wire(session: Session) -> None:
    """The network drops the socket without a word."""
    driver = session.connection._conn
    descriptor = driver.fileno() if session.connection.adapter.backend == "postgresql" else driver._sock.fileno()
    with socket.socket(fileno=os.dup(descriptor)) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def close_the_driver(session: Session) -> None:
    """Something else closed the driver's connection."""
    session.connection._conn.close()


WAYS = [terminate, cut_the_wire, close_the_driver]


@pytest.mark.parametrize("lose", WAYS)
def test_the_next_statement_reconnects(session: Session, lose: Callable[[Session], None]) -> None:
    lose(session)
    assert len(TrainingConfig().insert_tuples(TRAINING).new) == 1
    lose(session)
    assert len(TrainingConfig()) == 1
    assert session.connection.is_connected


@pytest.mark.parametrize("lose", WAYS)
def test_a_connection_that_was_lost_is_not_connected(session: Session, lose: Callable[[Session], None]) -> None:
    assert session.connection.is_connected
    lose(session)
    assert not session.connection.is_connected
    assert len(TrainingConfig()) == 0
    assert session.connection.is_connected


@pytest.mark.parametrize("lose", WAYS)
def test_inside_a_transaction_nothing_is_run_again_and_nothing_is_written(
    session: Session, lose: Callable[[Session], None]
) -> None:
    with pytest.raises(LostConnectionError), session.connection.transaction:
        TrainingConfig().insert_tuples(TRAINING)
        lose(session)
        TrainingConfig().insert_tuples({**TRAINING, "batch_size": 11})
    assert len(TrainingConfig()) == 0
    assert not session.connection.in_transaction


@pytest.mark.parametrize("lose", WAYS)
def test_a_loss_that_somebody_swallows_breaks_the_transaction_off_all_the_same(
    session: Session, lose: Callable[[Session], None]
) -> None:
    connection = session.connection
    with pytest.raises(LostConnectionError), connection.transaction:
        connection.query("SELECT 1")
        lose(session)
        # DataJoint asks this while it reads the columns of a table, and takes every error for an answer.
        lineage_table_exists(connection, TrainingConfig().database)
        assert connection.in_transaction
        TrainingConfig().insert_tuples(TRAINING)
    assert not connection.in_transaction
    assert len(TrainingConfig()) == 0
    with connection.transaction:
        TrainingConfig().insert_tuples(TRAINING)
    assert len(TrainingConfig()) == 1


@pytest.mark.parametrize("lose", WAYS)
def test_what_was_broken_off_unseen_cannot_be_committed(session: Session, lose: Callable[[Session], None]) -> None:
    connection = session.connection
    with pytest.raises(LostConnectionError), connection.transaction:
        TrainingConfig().insert_tuples(TRAINING)
        lose(session)
        lineage_table_exists(connection, TrainingConfig().database)
    assert not connection.in_transaction
    assert len(TrainingConfig()) == 0
    with connection.transaction:
        TrainingConfig().insert_tuples(TRAINING)
    assert len(TrainingConfig()) == 1


def test_a_transaction_is_broken_off_while_the_server_stays_away(postgres_session: Session) -> None:
    connection, server = postgres_session.connection, PostgresServer(postgres_session.home)
    connection.reconnect_seconds = 0.3
    try:
        with pytest.raises(LostConnectionError, match="broken off before"), connection.transaction:
            TrainingConfig().insert_tuples(TRAINING)
            server.stop()
            lineage_table_exists(connection, TrainingConfig().database)
            assert connection.in_transaction
            server.ensure_running()
            TrainingConfig().insert_tuples({**TRAINING, "batch_size": 11})
    finally:
        server.ensure_running()
    assert not connection.in_transaction
    assert len(TrainingConfig()) == 0


def test_a_commit_on_a_lost_connection_is_an_error(session: Session) -> None:
    with pytest.raises(DataJointError), session.connection.transaction:
        TrainingConfig().insert_tuples(TRAINING)
        cut_the_wire(session)
    assert len(TrainingConfig()) == 0


def test_a_statement_that_is_cut_while_it_runs_is_run_again(session: Session) -> None:
    connection = session.connection
    victim = connection.connection_id
    other = other_connection(session)
    killer = threading.Timer(0.3, lambda: other.query(KILL[other.adapter.backend] % victim))
    killer.start()
    connection.query(SLEEP[connection.adapter.backend])
    killer.join()
    assert connection.connection_id != victim
    other.close()


def test_a_statement_that_is_cut_again_and_again_is_run_each_time(session: Session) -> None:
    connection = session.connection
    other = other_connection(session)
    backend = other.adapter.backend
    cut: set[int] = set()

    def cut_what_runs() -> None:
        while len(cut) < 3:
            for (number,) in other.query(SLEEPING[backend]).fetchall():
                cut.add(number)
                other.query(KILL[backend] % number)
            time.sleep(0.1)

    killer = threading.Thread(target=cut_what_runs)
    killer.start()
    connection.query(SLEEP[backend])
    killer.join()
    assert len(cut) == 3
    assert connection.connection_id not in cut
    other.close()


def await_lock_wait(session: Session) -> None:
    """Return when a statement on the server waits for a lock that another transaction holds."""
    watcher = other_connection(session)
    try:
        while not watcher.query(LOCK_WAITS[watcher.adapter.backend]).fetchone()[0]:
            time.sleep(0.05)
    finally:
        watcher.close()


@pytest.fixture
def tangled(session: Session) -> Iterator[tuple[str, threading.Thread]]:
    """A table in which another transaction has changed rows 2 to 19, and changes row 1 as soon as somebody waits for
    it; whoever does so after changing that one has changed less, so that it is the one that the server breaks off. The
    thread ends when the other transaction is committed."""
    connection, other = session.connection, other_connection(session)
    table = str(connection.adapter.make_full_table_name(TrainingConfig().database, "tangled"))
    connection.query(f"CREATE TABLE {table} (a INT PRIMARY KEY, b INT)")
    connection.query(f"INSERT INTO {table} VALUES {', '.join(f'({a}, 0)' for a in range(1, 20))}")
    held = threading.Event()

    def tangle() -> None:
        with other.transaction:
            other.query(f"UPDATE {table} SET b = b + 10 WHERE a > 1")
            held.set()
            await_lock_wait(session)
            other.query(f"UPDATE {table} SET b = b + 10 WHERE a = 1")

    tangler = threading.Thread(target=tangle)
    tangler.start()
    held.wait()
    yield table, tangler
    tangler.join()
    other.close()


def test_a_statement_that_a_deadlock_breaks_off_is_run_again(
    session: Session, tangled: tuple[str, threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, tangler = tangled
    connection, broken_off = session.connection, []
    execute = connection._execute_query

    def watched(*args: Any) -> None:
        try:
            execute(*args)
        except Exception as error:
            broken_off.append(is_deadlock(error))
            tangler.join()  # or the second try might come between once more
            raise

    monkeypatch.setattr(connection, "_execute_query", watched)
    connection.query(f"UPDATE {table} SET b = b + 1 WHERE a IN (1, 2)")
    assert broken_off == [True]
    assert [*connection.query(f"SELECT b FROM {table} WHERE a IN (1, 2)").fetchall()] == [(11,), (11,)]


def test_a_deadlock_that_somebody_swallows_leaves_nothing_of_the_transaction(
    session: Session, tangled: tuple[str, threading.Thread]
) -> None:
    table, _ = tangled
    connection, broken_off = session.connection, []
    with pytest.raises(Exception, match=r"aborted|broken off before"), connection.transaction:
        try:
            connection.query(f"UPDATE {table} SET b = b + 1 WHERE a IN (1, 2)")
        except Exception as error:
            broken_off.append(is_deadlock(error))
        TrainingConfig().insert_tuples(TRAINING)
    assert broken_off == [True]
    assert not connection.in_transaction
    assert len(TrainingConfig()) == 0


def test_a_restarted_server_is_waited_for(postgres_session: Session) -> None:
    server = PostgresServer(postgres_session.home)
    server.stop()
    starter = threading.Timer(0.5, server.ensure_running)
    starter.start()
    assert len(TrainingConfig()) == 0
    starter.join()


def test_a_server_that_stays_away_is_given_up_with_a_sentence(postgres_session: Session) -> None:
    server = PostgresServer(postgres_session.home)
    postgres_session.connection.reconnect_seconds = 0.3
    server.stop()
    try:
        with pytest.raises(LostConnectionError, match="the database did not come back"):
            len(TrainingConfig())
    finally:
        server.ensure_running()
    assert len(TrainingConfig()) == 0


def test_a_closed_session_does_not_reconnect_by_itself(postgres_session: Session) -> None:
    connection = postgres_session.connection
    postgres_session.close()
    with pytest.raises(LostConnectionError, match="session is closed"):
        connection.query("SELECT 1")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_gets_a_connection_of_its_own(session: Session) -> None:
    before = session.connection.connection_id
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        session.connection.query("SELECT 1").fetchall()
        os.write(write, str(session.connection.adapter.get_connection_id(session.connection._conn)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(read, 32)) != before
    assert session.connection.query("SELECT 41 + 1").fetchone()[0] == 42
    assert session.connection.connection_id == before


def test_time_is_utc_whatever_the_server_thinks(session: Session) -> None:
    other = other_connection(session)
    if other.adapter.backend == "mysql":
        other.query("SET GLOBAL time_zone = '+05:30'")
    else:
        other.query("ALTER ROLE CURRENT_USER SET timezone = 'Asia/Kolkata'")
    try:
        terminate(session)
        now = session.connection.query("SELECT CURRENT_TIMESTAMP(3)").fetchone()[0]
        offset = now.replace(tzinfo=UTC) - datetime.now(UTC) if now.tzinfo is None else now.utcoffset()
        assert abs(offset.total_seconds()) < 60
    finally:
        undo = (
            "SET GLOBAL time_zone = 'SYSTEM'"
            if other.adapter.backend == "mysql"
            else "ALTER ROLE CURRENT_USER RESET timezone"
        )
        other.query(undo)
        other.close()


def test_tls_that_is_required_and_not_to_be_had_is_an_error(
    project_environment: dict[str, str], mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINLOOM_DATABASE_URL", mariadb_url)
    monkeypatch.setenv("TRAINLOOM_DATABASE_TLS", "true")
    with pytest.raises(DatabaseUnavailable, match="no database answers|SSL"):
        connect()
    monkeypatch.setenv("TRAINLOOM_DATABASE_TLS", "false")
    with connect() as session:
        assert session.connection.query("SHOW STATUS LIKE 'Ssl_cipher'").fetchone()[1] == ""


def test_secrets_are_masked_when_settings_are_printed() -> None:
    settings = Settings(database_url="mysql://me:very-secret@host/x", mongo_url="mongodb://me:very-secret@host")
    assert (
        "very-secret"
        not in f"{settings!r} {settings} {settings.model_dump()} {settings.database!r} {settings.database.label}"
    )


@pytest.mark.parametrize(
    "url", ["mysql://me:12/s3cret@host/x", "mysql://me:s3cret@part@host/x", "mongodb://me:s3#cret@host"]
)
def test_no_part_of_a_badly_written_password_gets_into_a_message(url: str) -> None:
    shown = without_password(url)
    assert shown.startswith(url.partition("me:")[0] + "me:***@host")
    try:
        shown = Settings(database_url=url).database.label
    except ConfigurationError as error:
        shown = str(error)
    assert "cret" not in shown
