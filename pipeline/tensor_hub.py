"""TensorHub: datasets, models, logs and script tasks by name and tag, with the calls of TensorLayer's database.

What is saved here are the rows and objects that everything else uses.
Calls and argument names follow https://tensorlayer.readthedocs.io/en/latest/modules/db.html.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import InvalidRow
from schemas.script_task import DEFAULT_PRIORITY, ScriptTask
from schemas.stored_dataset import StoredDataset
from schemas.stored_model import StoredModel

from . import dataset_store, script_queue, tag_query
from .dataset_store import DatasetMissing
from .event_record import Selection
from .hub_session import session_for
from .model_arguments import known_arguments
from .model_registration import DIRECTIONS
from .model_search import NoModel
from .session import Session
from .tag_query import Sort

logger = logging.getLogger("trainloom")

DATASET_COLUMNS = {name: f"stored_dataset_{name}" for name in ("name", "version", "description", "time", "size")}
MODEL_COLUMNS = {name: f"stored_model_{name}" for name in ("name", "version", "description", "time", "size")}


class TensorHub:
    """A project, as TensorLayer's tutorials call it; a context manager.

    Parameters
    ----------
    ip, port, dbname, username, password : the MongoDB server (`ip` may be the path of a Unix socket), where no session
        is open yet; by default that of the settings. On an open session they have to agree with it.
    project_name : by default that of the settings.
    session : use this session, whatever is said besides.

    Raises
    ------
    SessionError
        If another project's session is open.
    ConfigurationError
        If the servers cannot be used.
    """

    def __init__(
        self,
        ip: str | None = None,
        port: int | None = None,
        dbname: str | None = None,
        username: str | None = None,
        password: str | None = None,
        project_name: str | None = None,
        session: Session | None = None,
    ) -> None:
        if session is not None:
            self.session, self._opened = session, False
        else:
            self.session, self._opened = session_for(ip, port, dbname, username, password, project_name)

    def __enter__(self) -> TensorHub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TensorHub of {self.session!r}>"

    def close(self) -> None:
        """Close the session, if this object has opened it; send the logs in any case. Twice is harmless."""
        if self._opened:
            self.session.close()
        else:
            self.session.events.flush()

    # Datasets

    def save_dataset(
        self, dataset: Any, dataset_name: str, version: str = "", description: str = "", **tags: Any
    ) -> dict[str, str]:
        """Save arrays, or lists and dicts of them, under a name; returns the key. See `dataset_store.save`."""
        return dataset_store.save(
            self.session.store, dataset, dataset_name, version=version, description=description, tags=tags
        )

    def find_dataset(self, dataset_name: str, version: str | None = None, sort: Sort = None, **tags: Any) -> Any:
        """The first dataset of that name in order, by default the newest.

        Raises
        ------
        DatasetMissing
            If there is none.
        """
        rows = self._datasets(dataset_name, version, tags, sort)
        if not rows:
            described = "" if version is None else f" of version {version!r}"
            raise DatasetMissing(
                f"there is no dataset {dataset_name!r}{described}{_with(tags)} in the project "
                f"{self.session.settings.project}; save it first"
            )
        return dataset_store.load(self.session.store, rows[0])

    def find_all_datasets(self, dataset_name: str, sort: Sort = None, **tags: Any) -> list[Any]:
        """All datasets of that name, by default the newest first; all of them are in memory then."""
        version = tags.pop("version", None)
        rows = self._datasets(dataset_name, version, tags, sort)
        return [dataset_store.load(self.session.store, row) for row in rows]

    find_datasets = find_all_datasets  # as TensorLayer's class calls it

    def delete_dataset(self, dataset_name: str | None = None, version: str | None = None, **tags: Any) -> int:
        """Delete datasets, all of the project by default; how many there were. What no row names any more is left to
        the store's garbage collection. None is deleted if rows of other tables still use one: `DatasetInUse`."""
        rows = self._datasets(dataset_name, version, tags, None)
        dataset_store.remove(rows)
        return len(rows)

    def _datasets(
        self, name: str | None, version: str | None, tags: Mapping[str, Any], sort: Sort
    ) -> list[Mapping[str, Any]]:
        wanted = {"stored_dataset_name": name, "stored_dataset_version": version}
        chosen = StoredDataset() & {column: value for column, value in wanted.items() if value is not None}

        def value(row: Mapping[str, Any], tag: str) -> Any:
            return row[DATASET_COLUMNS[tag]] if tag in DATASET_COLUMNS else row["stored_dataset_tags"].get(tag)

        return tag_query.query(chosen.to_dicts(), value, tags, sort)

    # Models

    def save_model(
        self,
        network: Any,
        name: str = "model",
        version: str = "",
        description: str = "",
        *,
        params: Mapping[str, Any] | None = None,
        input_shape: Any = None,
        output_shape: Any = None,
        **tags: Any,
    ) -> dict[str, str]:
        """Save a module (or a state dict) with metrics and tags; returns the key. See `StoredModel.put`.

        Numbers under the name of a known metric are metrics, everything else are tags. Constructor arguments that are
        not given are read from the module's attributes of the same names; where they cannot be known, or rows may not
        name the class, the model loads as a state dict only, and this is said.
        """
        shapes = {"input_shape": input_shape, "output_shape": output_shape}
        described = known_arguments(network, {"params": params, **shapes})
        metrics = {tag: value for tag, value in tags.items() if _is_metric(tag, value)}
        others = {tag: value for tag, value in tags.items() if tag not in metrics}
        return StoredModel().put(
            network,
            name=name,
            version=version,
            description=description,
            tags=others,
            metrics=metrics,
            **described,
        )

    def find_model(self, sess: Any = None, sort: Sort = None, device: Any = "cpu", **filters: Any) -> Any:
        """The first model in order, by default the newest: a module in eval mode, or a state dict where only that is
        known.

        Raises
        ------
        NoModel
            If there is none.
        """
        if sess is not None:
            logger.warning("find_model was given sess, which is ignored: there are no sessions of TensorFlow here")
        rows = self._models(filters, sort)
        if not rows:
            raise NoModel(f"there is no model{_with(filters)} in the project {self.session.settings.project}")
        key = {"stored_model_md5_hash": rows[0]["stored_model_md5_hash"]}
        if rows[0]["stored_model_loads_as"] == "module":
            return StoredModel().load_model(key, device)
        logger.warning("the model %s loads as a state dict only", rows[0]["stored_model_name"])
        return StoredModel().load_state(key, device)

    def count_models(self, **filters: Any) -> int:
        """How many models there are."""
        return len(self._models(filters, None))

    def delete_model(self, **filters: Any) -> int:
        """Delete models, all of the project by default; how many there were. Their weights are left to the store's
        garbage collection. None is deleted if rows of other tables still use one: `ModelInUse`."""
        rows = self._models(filters, None)
        StoredModel().remove_all({"stored_model_md5_hash": row["stored_model_md5_hash"]} for row in rows)
        return len(rows)

    def _models(self, filters: Mapping[str, Any], sort: Sort) -> list[Mapping[str, Any]]:
        columns = (*MODEL_COLUMNS.values(), "stored_model_tags", "stored_model_metrics", "stored_model_loads_as")
        named = {"stored_model_name": filters["name"]} if "name" in filters else True

        def value(row: Mapping[str, Any], tag: str) -> Any:
            if tag in MODEL_COLUMNS:
                return row[MODEL_COLUMNS[tag]]
            metric = row["stored_model_metrics"].get(tag)
            return row["stored_model_tags"].get(tag) if metric is None else metric.get("value")

        return tag_query.query((StoredModel() & named).proj(*columns).to_dicts(), value, filters, sort)

    # Logs

    def save_training_log(self, **fields: Any) -> None:
        """Log values of a training; `task` may say what they belong to. See `EventLog.append`."""
        self._log("training", fields)

    def save_validation_log(self, **fields: Any) -> None:
        """Log values of a validation; as `save_training_log`."""
        self._log("validation", fields)

    def save_testing_log(self, **fields: Any) -> None:
        """Log values of a test; as `save_training_log`."""
        self._log("testing", fields)

    def delete_training_log(self, **filters: Any) -> int:
        """Delete the logs of trainings whose values equal all filters, all by default; how many there were."""
        return self._delete_log("training", filters)

    def delete_validation_log(self, **filters: Any) -> int:
        """Delete logs of validations; as `delete_training_log`."""
        return self._delete_log("validation", filters)

    def delete_testing_log(self, **filters: Any) -> int:
        """Delete logs of tests; as `delete_training_log`."""
        return self._delete_log("testing", filters)

    def _log(self, kind: str, fields: dict[str, Any]) -> None:
        task = fields.pop("task", "")
        self.session.events.append(kind, fields, task=task)

    def _delete_log(self, kind: str, filters: dict[str, Any]) -> int:
        task = filters.pop("task", None)
        return self.session.events.delete(Selection(task=task, kind=kind, where=filters))

    # Tasks

    def create_task(
        self,
        task_name: str,
        script: str | Path,
        hyper_parameters: Mapping[str, Any] | None = None,
        saved_result_keys: Sequence[str] = (),
        description: str = "",
        priority: int = DEFAULT_PRIORITY,
        **tags: Any,
    ) -> dict[str, str]:
        """Make a script a task that any runner can take; returns the key. See `ScriptTask.insert_task`.

        Parameters
        ----------
        script : the path of a Python file, whose text is recorded; or the text itself, of several lines.
        """
        text, file_name = _script_of(script)
        (key,) = ScriptTask().insert_task(
            task_name,
            text,
            hyper_parameters or {},
            saved_result_keys,
            file_name=file_name,
            description=description,
            tags=tags,
            priority=priority,
        )
        return key

    def run_task(self, task_name: str | None = None, sort: Sort = None, **filters: Any) -> bool:
        """Take the first task in order that waits, and run it here; whether there was one. See
        `script_queue.run_one`."""
        return script_queue.run_one(self.session.settings, task_name, filters, sort)

    def check_unfinished_task(
        self, task_name: str | None = None, *, wait: bool = False, timeout: float | None = None, **filters: Any
    ) -> bool:
        """Whether any task waits, runs or is to be tried again. Tasks that were set aside are not unfinished; they are
        said.

        Parameters
        ----------
        wait : return only when none is unfinished; raise `ScriptTasksFailed` if one was set aside.
        timeout : s after which a wait ends with `WaitedTooLong`.
        """
        if wait:
            script_queue.wait(task_name, filters, timeout, self.session.settings.poll_seconds)
            return False
        if script_queue.unfinished(task_name, filters):
            return True
        for key, message in script_queue.errors(task_name, filters).items():
            logger.warning("the script task %s was set aside: %s", key[:8], message)
        return False

    def delete_tasks(self, task_name: str | None = None, **filters: Any) -> int:
        """Delete tasks with their results, all of the project by default; how many there were."""
        return script_queue.delete(task_name, filters)


def _is_metric(name: str, value: Any) -> bool:
    return name in DIRECTIONS and isinstance(value, int | float) and not isinstance(value, bool)


def _with(filters: Mapping[str, Any]) -> str:
    return f" with {', '.join(f'{name}={value!r}' for name, value in filters.items())}" if filters else ""


def _script_of(script: str | Path) -> tuple[str, str]:
    """The text of a script and the name of its file."""
    if isinstance(script, str) and "\n" in script:
        return script, "script.py"
    path = Path(script)
    try:
        return path.read_text(encoding="utf-8"), path.name
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRow(f"the script {path} cannot be read: {error}; give the path of a Python file") from error
