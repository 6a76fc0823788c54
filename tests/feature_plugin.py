"""A pytest plugin that records which rows of docs/features.md a run has shown, for ``make features``.

``@pytest.mark.feature("S6")`` names one row, ``@pytest.mark.feature("S6", "S7")`` several. A marker that names no row
of the catalogue is an error of its module's collection.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.feature_catalogue import CatalogueError, Recorded, Row, add_to_record, fingerprint, read_catalogue

_PROPERTY = "feature"


class Marks:
    """Checks the markers against the catalogue and writes them where reports carry them from process to process."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @functools.cached_property
    def rows(self) -> dict[str, Row]:
        return read_catalogue(self.root)

    @pytest.hookimpl(wrapper=True)
    def pytest_pycollect_makeitem(self) -> Generator[None, object, object]:
        made = yield
        for item in made if isinstance(made, list) else [made]:
            if isinstance(item, pytest.Item):
                for mark in item.iter_markers("feature"):
                    self.check(item, mark)
                    item.user_properties.extend((_PROPERTY, id) for id in mark.args)
        return made

    def check(self, item: pytest.Item, mark: pytest.Mark) -> None:
        try:
            unknown = [repr(id) for id in mark.args if id not in self.rows]
        except CatalogueError as error:
            raise pytest.Collector.CollectError(str(error)) from error
        if unknown or not mark.args:
            what = f"unknown features {', '.join(unknown)}" if unknown else "a feature marker without ids"
            raise pytest.Collector.CollectError(f"{item.nodeid} has {what}: write ids of docs/features.md")


class Recorder:
    """Outcomes of one run's marked tests, in the process that receives the reports (with pytest-xdist: no worker)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources = fingerprint(root)  # before the run: what is edited meanwhile was perhaps not what was tested
        self.tests: dict[str, Recorded] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        features = tuple(str(value) for name, value in report.user_properties if name == _PROPERTY)
        if features and (report.when == "call" or not report.passed):
            self.tests[report.nodeid] = Recorded(features, report.outcome)

    def pytest_sessionfinish(self) -> None:
        if self.tests:
            add_to_record(self.root, self.sources, self.tests)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Marks(config.rootpath), "feature-marks")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config.rootpath), "feature-recorder")
