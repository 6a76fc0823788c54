"""Models written into a folder for use elsewhere: weights beside a description in JSON."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models_impl.contract import output_and_regularization

from .model_catalog import Model
from .model_weights import UnusableModel, parse, serialized
from .store.interface import Store, parse_address, sync_folder
from .training_spec import as_shape

DESCRIPTION = "model.json"
ONNX_PACKAGES = ("onnx", "onnxscript")


class Format(StrEnum):
    """What the weights are written as."""

    SAFETENSORS = "safetensors"
    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"


FILES = {Format.SAFETENSORS: "model.safetensors", Format.TORCHSCRIPT: "model.pt", Format.ONNX: "model.onnx"}


def export(
    model: Model,
    folder: Path,
    store: Store,
    *,
    load: Callable[[], nn.Module],
    form: Format = Format.SAFETENSORS,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a model into a new or empty folder, which holds everything afterwards or was not touched.

    Parameters
    ----------
    load : builds the model; asked only for formats that hold its code.
    provenance : where the model comes from, to be part of the description.

    Returns
    -------
    dict
        The description, as it was written to ``model.json``.

    Raises
    ------
    UnusableModel
        If the folder holds something, or the model cannot be written in this format.
    """
    if form is not Format.SAFETENSORS:
        _check_traceable(model, form)
    with _whole(folder) as draft:
        path = draft / FILES[form]
        if form is Format.SAFETENSORS:
            _write_weights(model, path, store)
        elif form is Format.TORCHSCRIPT:
            _write_torchscript(load(), model, path)
        else:
            _write_onnx(load(), model, path)
        described = {**_description(model), "weights": _file(path, form)}
        if provenance is not None:
            described["provenance"] = dict(provenance)
        text = json.dumps(described, indent=2, ensure_ascii=False, allow_nan=False)
        (draft / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    return described


def origin(model: Model, project: str, project_id: str) -> dict[str, Any]:
    """The provenance of a model: who asks the project for this key is told everything."""
    return {
        "project": project,
        "project_id": project_id,
        "kind": model.kind.value,
        "key": model.key,
        "address": model.address,
        "time": model.time.replace(tzinfo=UTC).isoformat(),
    }


def _description(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "description": model.description,
        "tags": dict(model.tags),
        "class": None if model.model_class is None else dict(model.model_class),
        "params": dict(model.params),
        "input_shape": model.input_shape,
        "output_shape": model.output_shape,
        "metrics": {name: dict(metric) for name, metric in model.metrics.items()},
    }


def _file(path: Path, form: Format) -> dict[str, Any]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "format": form.value, "sha256": sha256, "size": path.stat().st_size}


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A draft beside the folder that takes its place, synced to disk, when everything is written."""
    target = folder.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UnusableModel(f"{folder} is there already and not empty; name a folder that does not exist")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    draft.mkdir()
    try:
        yield draft
        for path in draft.iterdir():
            _sync(path)
        sync_folder(draft)
        os.rename(draft, target)  # onto nothing or an empty folder; anything else is refused
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # the reason of the failure matters more than what is left here
        raise
    sync_folder(target.parent)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_weights(model: Model, path: Path, store: Store) -> None:
    """The stored file itself, or the tensors of one that was written by torch.save."""
    if not model.address:
        raise UnusableModel(f"the model {model.key[:8]} has no weights: its trainer saved no file at model_save_path")
    store.download(parse_address(model.address), path)
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] != b"{":
        path.write_bytes(serialized(parse(path.read_bytes(), f"the object of the model {model.key[:8]}")))


class _OutputOnly(nn.Module):
    """A model without its regularization loss, which is a matter of training."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return output_and_regularization(self.model(x))[0]


def _check_traceable(model: Model, form: Format) -> None:
    if model.model_class is None:
        raise UnusableModel(f"the model {model.name} loads as a state dict only; export it as {Format.SAFETENSORS}")
    shape = model.input_shape
    if not isinstance(shape, list) or not all(isinstance(side, int) for side in shape):
        raise UnusableModel(
            f"{form} needs an example, and the model {model.key[:8]} has no single input_shape ({shape!r}); export it "
            f"as {Format.SAFETENSORS}"
        )
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None] if form is Format.ONNX else []
    if missing:
        raise UnusableModel(f"ONNX needs {' and '.join(missing)}; run `pip install 'trainloom[onnx]'`")


def _example(model: Model, batch: int) -> Tensor:
    return torch.zeros(batch, *as_shape(model.input_shape))


def _write_torchscript(module: nn.Module, model: Model, path: Path) -> None:
    with _traced(module, Format.TORCHSCRIPT):
        traced = torch.jit.trace(_OutputOnly(module).eval(), (_example(model, 1),))  # type: ignore[no-untyped-call]
        traced.save(str(path))


def _write_onnx(module: nn.Module, model: Model, path: Path) -> None:
    """With the inputs ``input`` and the outputs ``output``, or those of the model's list or dict by number or name."""
    traced = _OutputOnly(module).eval()
    example = _example(model, 2)  # sizes of 0 and 1 are constants to torch
    with _traced(module, Format.ONNX), _hushed():
        program = torch.onnx.export(
            traced,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["input"],
            output_names=_output_names(traced(example)),
            verbose=False,
        )
        assert program is not None
        # torch falls back to the example's own size where the code allows no other.
        shape = program.model.graph.inputs[0].shape
        if shape is None or isinstance(shape[0], int):
            raise UnusableModel("its code allows batches of one size only")
        program.save(str(path), external_data=False)


def _output_names(output: Any) -> list[str]:
    if isinstance(output, Mapping):
        return [str(name) for name in output]
    return [f"output_{number}" for number in range(len(output))] if isinstance(output, list) else ["output"]


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what torch logs and prints while it exports: packages that are not needed, and graphs that failed."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@contextmanager
def _traced(module: nn.Module, form: Format) -> Iterator[None]:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):  # of torch's own calls; TorchScript itself is one
                warnings.simplefilter("ignore", category)
            yield
    except Exception as error:  # whatever the model's code does with what torch traces it with
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:300]
        kind = "" if isinstance(cause, UnusableModel) else f"{type(cause).__name__}: "
        raise UnusableModel(
            f"{type(module).__qualname__} cannot be written as {form}: {kind}{reason}; export it as "
            f"{Format.SAFETENSORS}"
        ) from error
