"""Results side by side, written into a folder as a page, pictures and tables."""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import leftover_folders, plots
from .errors import PipelineError
from .report_content import Reported, configuration, divided
from .report_page import drawn_names, page
from .trace import trace
from .training_curve import TrainingCurve, finished_curve

if TYPE_CHECKING:
    from .session import Session

PAGE = "report.html"
RESULTS = "results.csv"
MARK = "report.json"
"""What tells a report's folder from others: only such a folder is replaced."""
LOSSES = ("training_loss", "validation_loss")


class ReportFolderTaken(PipelineError, ValueError):
    """The folder for a report holds something else."""


def write_report(keys: Sequence[str], folder: Path, session: Session) -> Path:
    """Compare finished tasks; returns the page.

    The folder holds `report.html`; `results.csv`, a row per result; `curves/`, with every epoch of each result as CSV
    and its losses as PNG; and one PNG per value with all results on one axis. It is written beside its place and
    renamed: there is never half a report. A report that was there is replaced as a whole.

    Raises
    ------
    ReportFolderTaken
        If the folder holds anything but a report.
    """
    folder = Path(os.path.abspath(folder))
    _refuse_others(folder)
    results = [Reported(trace(key), finished_curve(session.events, key)) for key in keys]
    folder.parent.mkdir(parents=True, exist_ok=True)
    name = f".unfinished-{folder.name}"
    leftover_folders.sweep(folder.parent, name)
    unfinished = folder.with_name(f"{leftover_folders.prefix(name)}{secrets.token_hex(4)}")
    unfinished.mkdir()
    try:
        _write(results, unfinished, session.settings.project)
        _put(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder / PAGE


def _refuse_others(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ReportFolderTaken(f"{folder} is a file; give a new folder for the report")
    if any(folder.iterdir()) and not (folder / MARK).exists():
        raise ReportFolderTaken(f"{folder} holds something that is no report; give a new folder")


def _put(written: Path, folder: Path) -> None:
    """Rename a written folder to its place, in which an older report may lie."""
    if not folder.exists():
        written.rename(folder)
        return
    old = folder.with_name(f"{written.name}-old")
    folder.rename(old)
    try:
        written.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _write(results: Sequence[Reported], folder: Path, project: str) -> None:
    curves = folder / "curves"
    curves.mkdir()
    for result in results:
        write_curve(curves / f"{result.key}.csv", result.curve)
        losses = {name: result.curve.points(name) for name in LOSSES}
        plots.picture(curves / f"{result.key}.png", result.title, "loss", losses)
    for name in drawn_names(results):
        drawn = {result.short: result.curve.points(name) for result in results}
        plots.picture(folder / f"{_file_name(name)}.png", name, name, drawn)
    _write_results(folder / RESULTS, results)
    (folder / PAGE).write_text(page(results, project), encoding="utf-8")
    (folder / MARK).write_text(json.dumps({"tasks": [result.key for result in results]}), encoding="utf-8")


def write_curve(path: Path, curve: TrainingCurve) -> None:
    """Write a row for every epoch, counted from 1, with every digit; empty where an epoch has no such value."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *curve.names])
        for epoch, values in sorted(curve.epochs.items()):
            writer.writerow([epoch, *(values.get(name, "") for name in curve.names)])


def _write_results(path: Path, results: Sequence[Reported]) -> None:
    """A row per result: its key, what differs between them, what came out."""
    configurations = [configuration(result.trace) for result in results]
    differing, _ = divided(configurations)
    metrics = list(dict.fromkeys(name for result in results for name in result.metrics))
    facts = list(results[0].facts)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", *differing, *metrics, *facts])
        for result, configured in zip(results, configurations, strict=True):
            values = [result.metrics.get(name) for name in metrics]
            texts = [configured.get(name, "") for name in differing]
            writer.writerow([result.key, *texts, *values, *result.facts.values()])


def _file_name(name: str) -> str:
    """A value's name as that of a file: rows may hold anything."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
