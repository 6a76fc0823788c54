"""The feature catalogue against the tests: which rows of docs/features.md has a passing test shown?

``python -m tests.feature_catalogue`` runs nothing. It reads what the last test runs recorded (see
``tests/feature_plugin.py``), prints every row with its tests and exits 1 if a row that is said to be done has no
passing one. A record counts only for the very sources it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from filelock import FileLock

CATALOGUE = Path("docs/features.md")
RECORD = Path("build/features/record.json")
SOURCES = (
    *("trainloom", "schemas", "datasets_impl", "models_impl", "trainers", "k8s", "pipeline"),
    *("tests", "examples", "notebooks"),
    *("setup.cfg", "pyproject.toml", "constraints.txt"),
)
COLUMNS = ("id", "a person can", "delivered as", "state")
STATES = frozenset({"done", "planned"})


class CatalogueError(ValueError):
    """The catalogue cannot be read."""


@dataclass(frozen=True)
class Row:
    """One feature: what a person can do, how that is delivered, and whether it is ``done`` or ``planned``."""

    id: str
    person: str
    delivered: str
    state: str


@dataclass(frozen=True)
class Recorded:
    """The outcome of one test (``passed``, ``failed`` or ``skipped``) and the rows it shows."""

    features: tuple[str, ...]
    outcome: str


def read_catalogue(root: Path) -> dict[str, Row]:
    """The rows of all tables of docs/features.md by id, in their order.

    Raises
    ------
    CatalogueError
        A row has the wrong number of columns, an unknown state, or the id of another row; or there is no row at all.
    """
    path = root / CATALOGUE
    if not path.is_file():
        raise CatalogueError(f"{path} is missing: tests marked with a feature need the catalogue")
    rows: dict[str, Row] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        cells = tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        if not line.startswith("|") or cells == COLUMNS or set("".join(cells)) <= set("-:"):
            continue
        if len(cells) != len(COLUMNS):
            raise CatalogueError(
                f"{path}:{number} has {len(cells)} columns instead of {len(COLUMNS)}: {', '.join(COLUMNS)}"
            )
        row = Row(*cells)
        if row.state not in STATES:
            raise CatalogueError(f"{path}:{number} says '{row.state}' for {row.id}: write 'done' or 'planned'")
        if row.id in rows:
            raise CatalogueError(f"{path}:{number} uses the id {row.id} a second time: give the row its own")
        rows[row.id] = row
    if not rows:
        raise CatalogueError(f"{path} holds no rows: it needs tables with the columns {', '.join(COLUMNS)}")
    return rows


def fingerprint(root: Path) -> str:
    """sha256 (hex) over names and bytes of all sources: a record of older sources is never taken for one of these."""
    digest = hashlib.sha256()
    for name in SOURCES:
        source = root / name
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts):
                digest.update(f"{path.relative_to(root)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def read_record(root: Path, sources: str) -> dict[str, Recorded]:
    """What was recorded for these sources, by test id; empty if nothing was."""
    path = root / RECORD
    if not path.is_file():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["sources"] != sources:
        return {}
    return {test: Recorded(tuple(entry["features"]), entry["outcome"]) for test, entry in record["tests"].items()}


def add_to_record(root: Path, sources: str, tests: Mapping[str, Recorded]) -> None:
    """Merge one run into the record, replacing one of other sources. Runs side by side lose none of their tests."""
    path = root / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        merged = read_record(root, sources) | dict(tests)
        text = json.dumps(
            {
                "sources": sources,
                "tests": {
                    test: {"features": entry.features, "outcome": entry.outcome} for test, entry in merged.items()
                },
            },
            indent=1,
            sort_keys=True,
        )
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)


def report(rows: Mapping[str, Row], record: Mapping[str, Recorded], out: TextIO) -> list[str]:
    """Print every row with its tests, the cases of one counted together; give the ids of the rows that are said to be
    done without a passing test.

    Raises
    ------
    CatalogueError
        A recorded test shows a row that the catalogue no longer holds.
    """
    tests: dict[str, Counter[str]] = {id: Counter() for id in rows}
    shown: set[str] = set()
    for test, entry in sorted(record.items()):
        for id in entry.features:
            if id not in rows:
                raise CatalogueError(
                    f"{test} shows {id}, which {CATALOGUE} does not hold: correct the marker or add the row"
                )
            function = test.partition("[")[0]
            tests[id][function if entry.outcome == "passed" else f"{function} ({entry.outcome})"] += 1
            if entry.outcome == "passed":
                shown.add(id)
    for row in rows.values():
        print(f"{row.id:<4} {row.state:<8} {row.person}", file=out)
        for test, times in tests[row.id].items():
            print(f"{'':<13} - {test}{f' x {times}' if times > 1 else ''}", file=out)
    done = [row.id for row in rows.values() if row.state == "done"]
    print(f"{len(rows)} rows, {len(done)} done, {len(shown)} with a passing test", file=out)
    return [id for id in done if id not in shown]


def main(root: Path) -> int:
    """The exit code of ``make features``: 0, 1 if a row is done without proof, 2 if the catalogue cannot be read."""
    record = read_record(root, fingerprint(root))
    if not record:
        print("No test run is recorded for these sources: run `make test` and `make test-slow` first.", file=sys.stderr)
    try:
        unproven = report(read_catalogue(root), record, sys.stdout)
    except CatalogueError as error:
        print(error, file=sys.stderr)
        return 2
    if unproven:
        print(f"Said to be done without a passing test: {', '.join(unproven)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parents[1]))
