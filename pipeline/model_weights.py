"""Weights as bytes and as tensors, and whether they fit a model."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .errors import PipelineError
from .store.interface import Store

logger = logging.getLogger("trainloom")

FORMAT = "safetensors"
NAMED = 10
"""How many names of weights an error lists."""


class UnusableModel(PipelineError, ValueError):
    """A model cannot be loaded, stored or exported."""


class NotWeights(UnusableModel):
    """Bytes are no weights in a format that holds nothing but weights."""


class WeightsDoNotFit(UnusableModel):
    """Weights belong to another model.

    Attributes
    ----------
    missing : names that the model has and the weights have not.
    unexpected : names that the weights have and the model has not.
    """

    def __init__(self, label: str, missing: list[str], unexpected: list[str], other: str) -> None:
        parts = [
            f"{what} {_listed(names)}" for what, names in (("missing", missing), ("unexpected", unexpected)) if names
        ]
        told = "; ".join([*parts, *([other] if other else [])])
        super().__init__(
            f"the weights do not fit {label}: {told}; use the code and parameters that they were made with"
        )
        self.missing = missing
        self.unexpected = unexpected


def read_weights(store: Store, sha256: str, cached: Path | None = None) -> bytes:
    """The verified bytes of an object: of a local file where it holds exactly these, else from the store.

    Raises
    ------
    pipeline.store.StoreError
        If the object is missing or damaged, or the store cannot be reached.
    """
    if cached is not None:
        try:
            content = cached.read_bytes()
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
        if content:
            logger.debug("%s holds other bytes than %s; the store is read", cached, sha256)
    return store.get_bytes(sha256)


def parse(content: bytes, what: str) -> dict[str, Tensor]:
    """The tensors by name, on the CPU: of a safetensors file, or of a file of torch.save that holds a state dict only.

    Raises
    ------
    NotWeights
        For everything else; `what` names the bytes. Nothing of a pickle is run.
    """
    if content[8:9] == b"{":
        return parse_safetensors(content, what)
    if not content.startswith(b"PK"):
        raise NotWeights(f"{what} holds neither safetensors nor a state dict of torch.save; store it as safetensors")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the pickle leads it to
        raise NotWeights(
            f"{what} is a pickle with more than weights in it (torch.save of a whole module?), which is not read; "
            "save model.state_dict() as safetensors instead"
        ) from error
    return checked_state(state, what)


def parse_safetensors(content: bytes, what: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; `NotWeights` for anything else."""
    if content[8:9] != b"{":
        kind = "a pickle" if content.startswith((b"PK", b"\x80")) else "no safetensors file"
        raise NotWeights(f"{what} is {kind}; save the weights with safetensors.torch.save_file(model.state_dict(), …)")
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise NotWeights(f"{what} is a damaged safetensors file: {error}; save the weights again") from error


def checked_state(state: Any, what: str) -> dict[str, Tensor]:
    """A state dict, if it holds tensors by name and nothing else."""
    if not isinstance(state, Mapping):
        raise NotWeights(f"{what} is a {type(state).__name__}, no state dict; give model.state_dict()")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise NotWeights(
                f"{what} has under {name!r} a {type(value).__name__}, no tensor; give a state dict of tensors by name"
            )
    return dict(state)


def serialized(state: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of the tensors; the same tensors always give the same bytes.

    Tensors that share memory are each written in full: whoever reads a state dict finds every name.
    """
    return safetensors.torch.save(
        {name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    )


def fit(model: nn.Module, state: Mapping[str, Tensor], label: str, *, prefix: str = "", strict: bool = True) -> None:
    """Put weights into a model; `label` names its class.

    Weights that layers share may stand under one of their names only, as trainings write them. Only those whose names
    begin with `prefix` are taken; what is not `strict` leaves names out that the other side has not.

    Raises
    ------
    WeightsDoNotFit
        Unless shapes are the model's own, and names too where it is strict; also if no name begins with `prefix`.
    """
    own = model.state_dict()
    wanted = {name for name in own if name.startswith(prefix)}
    chosen = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
    if prefix and not wanted & chosen.keys():
        raise WeightsDoNotFit(label, [], [], f"no weights of both begin with {prefix!r}")
    try:
        found = model.load_state_dict(chosen, strict=False)
    except RuntimeError as error:  # sizes differ
        missing, unexpected = sorted(wanted - chosen.keys()), sorted(chosen.keys() - own.keys())
        detail = " ".join(str(error).partition("\n")[2].split())
        raise WeightsDoNotFit(label, missing, unexpected, detail) from None
    missing = _unshared([name for name in found.missing_keys if name in wanted], own)
    if strict and (missing or found.unexpected_keys):
        raise WeightsDoNotFit(label, missing, list(found.unexpected_keys), "")


def _unshared(missing: list[str], own: Mapping[str, Any]) -> list[str]:
    """Those of the missing names that do not stand for the same numbers as a name that was found."""
    if not missing:
        return []
    loaded = {_place(value) for name, value in own.items() if name not in missing and _has_place(value)}
    return [name for name in missing if not _has_place(own.get(name)) or _place(own[name]) not in loaded]


def _has_place(value: Any) -> bool:
    return isinstance(value, Tensor) and not torch.nn.parameter.is_lazy(value) and value.numel() > 0


def _place(tensor: Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
