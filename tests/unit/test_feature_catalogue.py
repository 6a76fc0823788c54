"""The tool behind ``make features``: only what passed, for these sources, under a known id, counts as shown."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.feature_catalogue import CATALOGUE, CatalogueError, fingerprint, main, read_catalogue, read_record, report

pytest_plugins = "pytester"

HEAD = "| id | a person can | delivered as | state |\n|---|---|---|---|\n"
ROWS = HEAD + "| A1 | insert | `insert_tuples` | done |\n| A2 | read | `fetch` | planned |\n"
TESTS = """
import pytest
@pytest.mark.feature("A1")
def test_inserts(): pass
@pytest.mark.feature("A1", "A2")
def test_breaks(): assert False
@pytest.mark.feature("A2")
def test_skips(): pytest.skip("no server")
@pytest.mark.feature("A2")
def test_errors_while_cleaning_up(request):
    @request.addfinalizer
    def fail(): raise RuntimeError
def test_unmarked(): pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A small project with two rows in its catalogue, and its tests under ``tests/``."""
    pytester.makeini("[pytest]\nmarkers = feature\n")
    write_catalogue(pytester.path, ROWS)
    (pytester.path / "tests").mkdir()
    return pytester


def write_catalogue(root: Path, text: str) -> None:
    path = root / CATALOGUE
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def run(project: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    (project.path / "tests" / "test_it.py").write_text(source, encoding="utf-8")
    return project.runpytest_inprocess("-p", "tests.feature_plugin", "-p", "no:cacheprovider", *options)


def outcomes(root: Path) -> dict[str, str]:
    record = read_record(root, fingerprint(root))
    return {test.partition("::")[2]: entry.outcome for test, entry in record.items()}


@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["one process", "xdist"])
def test_a_run_records_the_outcome_of_every_marked_test(project: pytest.Pytester, options: tuple[str, ...]) -> None:
    run(project, TESTS, *options)
    assert outcomes(project.path) == {
        "test_inserts": "passed",
        "test_breaks": "failed",
        "test_skips": "skipped",
        "test_errors_while_cleaning_up": "failed",
    }


def test_runs_of_the_same_sources_are_merged(project: pytest.Pytester) -> None:
    run(project, TESTS, "-k", "inserts")
    run(project, TESTS, "-k", "skips")
    assert outcomes(project.path) == {"test_inserts": "passed", "test_skips": "skipped"}


def test_a_record_of_other_sources_counts_for_nothing(project: pytest.Pytester) -> None:
    run(project, TESTS, "-k", "inserts")
    (project.path / "tests" / "helper.py").write_text("", encoding="utf-8")
    assert outcomes(project.path) == {}
    assert main(project.path) == 1


def test_a_done_row_with_a_passing_test_is_proven(project: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    run(project, TESTS)
    capsys.readouterr()
    assert main(project.path) == 0
    listed = capsys.readouterr().out
    assert "- tests/test_it.py::test_inserts\n" in listed
    assert "- tests/test_it.py::test_breaks (failed)\n" in listed
    assert "2 rows, 1 done, 1 with a passing test" in listed


def test_a_done_row_whose_test_only_failed_is_unproven(project: pytest.Pytester) -> None:
    run(project, TESTS, "-k", "breaks")
    record = read_record(project.path, fingerprint(project.path))
    assert report(read_catalogue(project.path), record, io.StringIO()) == ["A1"]


def test_a_planned_row_needs_no_test(project: pytest.Pytester) -> None:
    write_catalogue(project.path, ROWS.replace("done", "planned"))
    assert main(project.path) == 0


def test_a_row_that_left_the_catalogue_after_the_run_is_named(
    project: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    run(project, TESTS, "-k", "inserts")
    write_catalogue(project.path, ROWS.replace("A1", "A7"))
    assert main(project.path) == 2
    assert "tests/test_it.py::test_inserts shows A1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("marker", "message"),
    [('feature("Z9")', "unknown features 'Z9'"), ("feature", "a feature marker without ids")],
)
@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["one process", "xdist"])
def test_a_wrong_marker_is_an_error_even_where_the_test_is_deselected(
    project: pytest.Pytester, options: tuple[str, ...], marker: str, message: str
) -> None:
    source = f"import pytest\n@pytest.mark.{marker}\ndef test_a(): pass\ndef test_b(): pass\n"
    result = run(project, source, "-k", "test_b", *options)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*test_a has {message}: write ids of docs/features.md"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "| A1 | insert | done |\n", "3 columns instead of 4"),
        (HEAD + "| A1 | insert | there | soon |\n", "says 'soon' for A1"),
        (ROWS + "| A1 | again | there | done |\n", "uses the id A1 a second time"),
        ("# Features\n", "holds no rows"),
    ],
)
def test_a_damaged_catalogue_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write_catalogue(tmp_path, text)
    with pytest.raises(CatalogueError, match=message):
        read_catalogue(tmp_path)


def test_the_catalogue_of_this_project_is_whole() -> None:
    rows = read_catalogue(Path(__file__).resolve().parents[2])
    assert {"S1", "S22", "N15", "T7", "X6", "B9"} <= rows.keys()
