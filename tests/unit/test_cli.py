"""The command line as far as it goes without a session: parser, errors, output."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import context, demo, error_chain, main
from pipeline.errors import ConfigurationError, PipelineError

LOADED = """
import sys
from pipeline.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("LOADED", *sorted({"torch", "datajoint", "pymongo", "numpy", "pydantic"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture
def run_action(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Runs `main` with a command that does what the test wants."""
    logger, handler = logging.getLogger("trainloom"), signal.getsignal(signal.SIGTERM)
    before = (logger.level, logger.propagate, logger.handlers[:])

    def run(action: Callable[[argparse.Namespace], int], *options: str) -> int:
        parser = argparse.ArgumentParser()
        parser.add_argument("--debug", action="store_true")
        parser.set_defaults(action=action)
        monkeypatch.setattr(main, "build_parser", lambda: parser)
        return main.main(list(options))

    yield run
    logger.setLevel(before[0])
    logger.propagate, logger.handlers[:] = before[1], before[2]
    signal.signal(signal.SIGTERM, handler)


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def action(_: argparse.Namespace) -> int:
        raise error

    return action


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in main.COMMANDS)])
def test_help_loads_nothing_that_takes_time(arguments: list[str]) -> None:
    told = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("usage: trainloom")
    assert told.stderr.strip() == "LOADED"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["--help"])
    listed = capsys.readouterr().out
    assert all(f"\n    {name} " in listed for name in main.COMMANDS)


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([])
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(PipelineError("it broke"), 1), (ConfigurationError("it broke"), 78), (ValueError("it broke"), 1)],
)
def test_an_error_is_one_sentence_and_an_exit_code(
    run_action: Callable[..., int], capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    assert run_action(raising(error)) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.endswith("it broke\n")
    assert "Traceback" not in told.err


@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_traceback_is_shown_on_demand(
    run_action: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    if how == "variable":
        monkeypatch.setenv("TRAINLOOM_DEBUG", "1")
    assert run_action(raising(PipelineError("it broke")), *(["--debug"] if how == "option" else [])) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_exits_130(run_action: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_action(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_sigterm_exits_143(run_action: Callable[..., int]) -> None:
    def action(_: argparse.Namespace) -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    with pytest.raises(SystemExit) as ended:
        run_action(action)
    assert ended.value.code == 143


def test_a_reader_that_leaves_is_no_error() -> None:
    code = (
        "import argparse; from pipeline.cli import main; parser = argparse.ArgumentParser()\n"
        "parser.set_defaults(debug=False, action=lambda _: print('x' * 2**20) or 0)\n"
        "main.build_parser = lambda: parser\nraise SystemExit(main.main([]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.close()
        assert started.stderr.read() == ""
    assert started.returncode == 141


def test_the_demonstration_says_how_the_command_is_brought_into_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", "/home/me/my lab/.venv")
    assert demo._activation() == "source '/home/me/my lab/.venv/bin/activate'"
    (tmp_path / "trainloom").touch(mode=0o755)
    assert demo._activation() is None


def chained(error: Exception, cause: Exception) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_causes_are_told_where_they_add_something() -> None:
    error = chained(PipelineError("the store is away"), chained(OSError("connection refused"), ValueError("bad port")))
    assert error_chain.describe(error) == (
        "error: the store is away\n  because: connection refused\n  because: ValueError: bad port"
    )


def test_a_cause_that_was_said_is_not_repeated() -> None:
    error = chained(PipelineError("no database answers: connection refused"), OSError("connection refused"))
    assert error_chain.describe(error) == "error: no database answers: connection refused"


def test_a_cause_of_the_system_that_was_said_in_other_words_is_not_repeated() -> None:
    missing = FileNotFoundError(2, "No such file or directory", "rows.yaml")
    error = chained(PipelineError("rows.yaml cannot be read: No such file or directory"), missing)
    assert error_chain.describe(error) == "error: rows.yaml cannot be read: No such file or directory"
    error = chained(PipelineError("the rows cannot be read: No such file or directory"), missing)
    assert error_chain.describe(error).endswith("\n  because: rows.yaml: No such file or directory")


def test_a_cause_that_was_hidden_stays_hidden() -> None:
    def translate() -> None:
        try:
            raise KeyError("internal")
        except KeyError:
            raise PipelineError("there is no such thing") from None

    with pytest.raises(PipelineError) as caught:
        translate()
    assert error_chain.describe(caught.value) == "error: there is no such thing"


def test_an_error_of_the_system_names_its_file() -> None:
    error = FileNotFoundError(2, "No such file or directory", "rows.yaml")
    assert error_chain.describe(error) == "error: rows.yaml: No such file or directory"


def test_an_error_without_text_is_named() -> None:
    assert error_chain.describe(ZeroDivisionError()) == "error: ZeroDivisionError"


@pytest.mark.parametrize("assignment", ["num_workers", "=3"])
def test_a_setting_on_the_command_line_needs_name_and_value(assignment: str) -> None:
    with pytest.raises(ConfigurationError, match="name=value|no setting"):
        context.load_settings(argparse.Namespace(set=[assignment], config=None))


def test_settings_on_the_command_line_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "mine.yaml").write_text("num_workers: 2\nproject: filed\n")
    monkeypatch.setenv("TRAINLOOM_CONFIG", str(tmp_path / "mine.yaml"))
    settings = context.load_settings(argparse.Namespace(set=["num-workers=3"], config=None))
    assert (settings.num_workers, settings.project) == (3, "filed")


def test_a_table_is_aligned_text_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    context.print_table(("name", "score"), [("mlp", 0.5), ("[cnn]", 12.25), (None, None)])
    assert capsys.readouterr().out == "name   score\nmlp      0.5\n[cnn]  12.25\n-          -\n"


def test_a_table_without_rows_has_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    context.print_table(("name", "score"), [])
    assert capsys.readouterr().out == "name  score\n"


def test_brackets_are_no_markup_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "is_terminal", lambda: True)
    context.print_table(("name",), [("[bold]kernel[/bold]",)])
    assert "[bold]kernel[/bold]" in capsys.readouterr().out


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    context.print_json({"loss": float("nan"), "when": datetime(2024, 1, 2, tzinfo=UTC), "sizes": (1, 2), "word": "π"})
    told = capsys.readouterr().out
    assert json.loads(told) == {"loss": None, "when": "2024-01-02T00:00:00+00:00", "sizes": [1, 2], "word": "π"}
    assert "π" in told
