"""Files of rows: configurations, tasks and grids in YAML, JSON or CSV.

YAML and JSON hold a mapping of sections, each a list::

    datasets:                       # columns of DatasetConfig
      - name: digits                # optional, for the sections below; not stored
        dataset_file_name: digits.h5
        dataset_class_module_name: datasets_impl.digits
        dataset_class_name: DigitsDataset
    models: [...]                   # columns of ModelConfig
    trainings: [...]                # columns of TrainingConfig
    tasks:                          # one row per task
      - {dataset: digits, model: mlp, training: adam, seed: 3, priority: 1}
    grids:                          # every combination
      - {datasets: [digits], models: all, trainings: [adam, 0a1b2c3d], seeds: [0, 1], priority: 5}

Tasks and grids name configurations by `name`, by key or by the beginning of a key; `all` stands for every stored one.
`warm_start` of a task is the key of the task whose weights it starts from, or whose last state it goes on from where
`warm_start_kind` is `state`. CSV holds the rows of one section other than `grids`: a column per column, cells of
``…_params`` as JSON, an empty cell for a column that is left out.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from schemas.dataset_config import DatasetConfig
from schemas.errors import SchemaError
from schemas.keys import Keys
from schemas.model_config import ModelConfig
from schemas.training_config import TrainingConfig
from schemas.training_task import TrainingTask

from .errors import PipelineError
from .short_keys import UnknownKey, full_key

TABLES: Mapping[str, Any] = {"datasets": DatasetConfig, "models": ModelConfig, "trainings": TrainingConfig}
# Data files are read and stored at insertion, so the rows that cost nothing are checked before them.
INSERTION_ORDER = ("models", "trainings", "datasets")
SECTIONS = (*TABLES, "tasks", "grids")
CSV_SECTIONS = (*TABLES, "tasks")
REFERENCES = {"dataset": "datasets", "model": "models", "training": "trainings"}
TASK_OPTIONS = ("seed", "priority", "code_version", "warm_start", "warm_start_kind")
GRID_OPTIONS = ("seeds", "priority", "code_version")
INTEGER_COLUMNS = ("batch_size", "epoch_limit", "seed", "priority")
LARGEST_GRID = 1_000_000
"""Tasks; a grid beyond it is taken for a mistake."""


class InvalidInsertFile(PipelineError, ValueError):
    """A file of rows is not as it should be; nothing of it was inserted."""


@dataclass(frozen=True)
class Content:
    """The sections of a file, each a list of rows."""

    path: Path
    sections: Mapping[str, list[dict[str, Any]]]


@dataclass
class Inserted:
    """The keys of what a file holds, section by section; `Keys.new` says which were not there before."""

    keys: dict[str, Keys] = field(default_factory=dict)

    def counts(self) -> dict[str, dict[str, int]]:
        """``new`` and ``existing`` rows of each section."""
        counts = {}
        for section, keys in self.keys.items():
            distinct = len({next(iter(key.values())) for key in keys})
            counts[section] = {"new": len(keys.new), "existing": distinct - len(keys.new)}
        return counts


def read(path: Path, section: str | None = None) -> Content:
    """Read a file of rows; `section` says which one a CSV file holds.

    Raises
    ------
    InvalidInsertFile
        If the file cannot be read or is not of this form.
    """
    suffix = path.suffix.lower()
    if suffix not in (".yaml", ".yml", ".json", ".csv"):
        raise InvalidInsertFile(f"{path} is neither YAML, JSON nor CSV by its name; end it in .yaml, .json or .csv")
    if (suffix == ".csv") != (section is not None):
        raise InvalidInsertFile(
            f"{path} holds the rows of one table; say which with --table {'|'.join(CSV_SECTIONS)}"
            if section is None
            else f"--table is for CSV files; {path} names its tables itself"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInsertFile(f"{path} is not UTF-8 text") from error
    except OSError as error:
        raise InvalidInsertFile(f"{path} cannot be read: {error.strerror}") from error
    try:
        if section is not None:
            return Content(path, {section: _csv_rows(text)})
        content = (
            json.loads(text, object_pairs_hook=_without_duplicates) if suffix == ".json" else yaml.load(text, _Loader)
        )
    except InvalidInsertFile as error:
        raise InvalidInsertFile(f"{path}, {error}") from None
    except (json.JSONDecodeError, yaml.YAMLError, csv.Error) as error:
        raise InvalidInsertFile(
            f"{path} is not valid {suffix.lstrip('.').upper()}: {' '.join(str(error).split())}"
        ) from error
    return Content(path, _checked_sections(path, content))


def insert(content: Content, connection: Any) -> Inserted:
    """Insert all rows of a file, or, on an error, none.

    Raises
    ------
    InvalidInsertFile
        If a row is wrong; the message names file, section and row.
    """
    inserted = Inserted()
    names: dict[str, dict[str, str]] = {section: {} for section in TABLES}
    with connection.transaction:
        for section in INSERTION_ORDER:
            rows = content.sections.get(section, [])
            if rows:
                inserted.keys[section] = _insert_configs(content.path, section, rows, names[section])
        tasks = _insert_tasks(content, names)
        if tasks is not None:
            inserted.keys["tasks"] = tasks
    inserted.keys = {section: inserted.keys[section] for section in SECTIONS if section in inserted.keys}
    return inserted


def _insert_configs(path: Path, section: str, rows: list[dict[str, Any]], names: dict[str, str]) -> Keys:
    table = TABLES[section]()
    columns = [{column: value for column, value in row.items() if column != "name"} for row in rows]
    with _where(path, section):
        keys: Keys = table.insert_tuples(columns)
    for number, (row, key) in enumerate(zip(rows, keys, strict=True)):
        name = row.get("name")
        if name is None:
            continue
        if not isinstance(name, str) or name == "all":
            raise InvalidInsertFile(f"{path}, {section} row {number}: name must be text other than 'all', not {name!r}")
        if name in names and names[name] != key[table.key_column]:
            raise InvalidInsertFile(
                f"{path}, {section} row {number}: the name {name!r} is taken by another row; choose another one"
            )
        names[name] = key[table.key_column]
    return keys


def _insert_tasks(content: Content, names: Mapping[str, Mapping[str, str]]) -> Keys | None:
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(content.sections.get("tasks", [])):
        rows.append(_task(f"{content.path}, tasks row {number}", row, names))
    for number, grid in enumerate(content.sections.get("grids", [])):
        rows.extend(_grid(f"{content.path}, grids row {number}", grid, names))
    if not rows:
        return None
    with _where(content.path, "tasks"):
        keys: Keys = TrainingTask().insert_tuples(rows)
    return keys


def _task(where: str, row: Mapping[str, Any], names: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    _check_names(where, row, required=REFERENCES, optional=TASK_OPTIONS)
    keys = {TABLES[section].key_column: _key(where, section, row[one], names) for one, section in REFERENCES.items()}
    options = {option: row[option] for option in TASK_OPTIONS if option in row}
    if isinstance(options.get("warm_start"), str):
        try:
            options["warm_start"] = full_key(TrainingTask, options["warm_start"])
        except UnknownKey as error:
            raise InvalidInsertFile(f"{where}, warm_start: {error}") from error
    return {**keys, **options}


def _grid(where: str, grid: Mapping[str, Any], names: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    _check_names(where, grid, required=TABLES, optional=GRID_OPTIONS)
    datasets, models, trainings = (_keys(where, section, grid[section], names) for section in TABLES)
    seeds = grid.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds:
        raise InvalidInsertFile(f"{where}: seeds must be a list of whole numbers, not {seeds!r}")
    size = len(datasets) * len(models) * len(trainings) * len(seeds)
    if size > LARGEST_GRID:
        raise InvalidInsertFile(f"{where}: it has {size} combinations, more than {LARGEST_GRID}; make it smaller")
    common = {option: grid[option] for option in GRID_OPTIONS if option in grid and option != "seeds"}
    columns = [TABLES[section].key_column for section in TABLES]
    return [
        {**dict(zip(columns, (dataset, model, training), strict=True)), "seed": seed, **common}
        for dataset in datasets
        for model in models
        for training in trainings
        for seed in seeds
    ]


def _keys(where: str, section: str, wanted: Any, names: Mapping[str, Mapping[str, str]]) -> list[str]:
    table = TABLES[section]
    if wanted == "all":
        found = [row[table.key_column] for row in table().keys(order_by="KEY")]
        if not found:
            raise InvalidInsertFile(f"{where}: {section} is 'all', but there is no {table.__name__} yet")
        return found
    if not isinstance(wanted, list) or not wanted:
        raise InvalidInsertFile(f"{where}: {section} must be a list of names or keys, or 'all', not {wanted!r}")
    return [_key(where, section, one, names) for one in wanted]


def _key(where: str, section: str, wanted: Any, names: Mapping[str, Mapping[str, str]]) -> str:
    if not isinstance(wanted, str):
        raise InvalidInsertFile(
            f"{where}: {wanted!r} must be text, a name or a key; put a key that reads as a number in quotes"
        )
    if wanted in names[section]:
        return names[section][wanted]
    try:
        return full_key(TABLES[section], wanted)
    except UnknownKey as error:
        known = f" (names in this file: {', '.join(names[section])})" if names[section] else ""
        raise InvalidInsertFile(
            f"{where}: {wanted!r} is no name in {section} of this file{known}, and {error}"
        ) from error


def _check_names(where: str, row: Mapping[str, Any], *, required: Iterable[str], optional: Iterable[str]) -> None:
    for name in required:
        if name not in row:
            raise InvalidInsertFile(f"{where}: {name} is missing")
    for name in row:
        if name not in (*required, *optional):
            raise InvalidInsertFile(f"{where}: {name!r} is unknown; it takes {', '.join((*required, *optional))}")


class _where:
    """Adds file and section to what the tables say of a row."""

    def __init__(self, path: Path, section: str) -> None:
        self._place = f"{path}, {section}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SchemaError):
            raise InvalidInsertFile(f"{self._place}: {error}") from error


def _checked_sections(path: Path, content: Any) -> dict[str, list[dict[str, Any]]]:
    if not isinstance(content, dict):
        raise InvalidInsertFile(f"{path} must hold the sections {', '.join(SECTIONS)}, not a {type(content).__name__}")
    for section, rows in content.items():
        if section not in SECTIONS:
            raise InvalidInsertFile(f"{path} has a section {section!r}; it may have {', '.join(SECTIONS)}")
        if not isinstance(rows, list):
            raise InvalidInsertFile(
                f"{path}: the section {section} must be a list of rows, not a {type(rows).__name__}"
            )
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise InvalidInsertFile(
                    f"{path}, {section} row {number}: a row is a mapping of columns, not a {type(row).__name__}"
                )
    if not any(content.values()):
        raise InvalidInsertFile(f"{path} holds no rows")
    return content


def _csv_rows(text: str) -> list[dict[str, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = [column.strip() for column in next(reader, [])]
    if len(set(header)) != len(header) or not all(header):
        raise InvalidInsertFile("line 1: every column needs a name of its own")
    rows = []
    for cells in reader:
        if not cells:
            continue
        if len(cells) != len(header):
            raise InvalidInsertFile(
                f"line {reader.line_num}: it has {len(cells)} cells and the first line {len(header)}"
            )
        filled = ((column, cell.strip()) for column, cell in zip(header, cells, strict=True) if cell.strip())
        rows.append({column: _cell(column, cell, reader.line_num) for column, cell in filled})
    if not rows:
        raise InvalidInsertFile("line 2: there are no rows")
    return rows


def _cell(column: str, text: str, line: int) -> Any:
    if column.endswith("_params"):
        try:
            return json.loads(text, object_pairs_hook=_without_duplicates)
        except json.JSONDecodeError as error:
            raise InvalidInsertFile(
                f'line {line}: {column} is not valid JSON ({error}); write it like {{"hidden_size": 100}}'
            ) from error
    if column in INTEGER_COLUMNS:
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            raise InvalidInsertFile(f"line {line}: {column} must be a whole number, not {text!r}")
        return int(text)
    return text


def _without_duplicates(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """A mapping with text for names; one given twice is an error, where the parsers would let the last one win."""
    mapping: dict[str, Any] = {}
    for name, value in pairs:
        if not isinstance(name, str):
            raise InvalidInsertFile(f"the name {name!r} is not text; put it in quotes")
        if name in mapping:
            raise InvalidInsertFile(f"{name!r} is given twice in one mapping; keep one of them")
        mapping[name] = value
    return mapping


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are those of YAML 1.2: `1e-3` is a number, where YAML 1.1 reads text."""


MERGE = "tag:yaml.org,2002:merge"


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    """A mapping whose own names differ; those merged in with `<<` may be given again."""
    names = [loader.construct_object(name, deep=True) for name, _ in node.value if name.tag != MERGE]
    _without_duplicates([(name, None) for name in names])
    loader.flatten_mapping(node)
    return {
        loader.construct_object(name, deep=True): loader.construct_object(value, deep=True)
        for name, value in node.value
    }


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),  # section 10.3.2 of the YAML 1.2.2 specification
    list("-+.0123456789"),
)
