"""How much of the store each model takes: its weights, checkpoints, histories and provenance."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .census import Census, Share
from .model_catalog import KEYS, TABLES, Kind, models
from .owned_objects import Named, OwnedObjects

if TYPE_CHECKING:
    from .session import Session

UNFINISHED = "unfinished"  # a task without a result that has checkpoints


@dataclass(frozen=True)
class ModelUsage:
    """What the rows of a model name in the store.

    Attributes
    ----------
    key : of the task or the stored model.
    kind : ``trained``, ``stored`` or ``unfinished``.
    name : as `pipeline.model_catalog` has it, empty for an unfinished one.
    share : number and bytes of its objects by kind, and the bytes that nothing else names.
    """

    key: str
    kind: str
    name: str
    share: Share


def usage(session: Session, limit: int | None = None) -> tuple[list[ModelUsage], tuple[int, int]]:
    """The models that take most, the largest first, at most `limit`; and number and bytes of the objects of all models
    together, each counted once."""
    owners = OwnedObjects(session.connection, session.settings.schema_name)
    with Census() as census:
        census.add_objects(session.store.list())
        with closing(owners.named()) as found:
            census.add_owners((named.sha256, _owner(named)) for named in found)
        return _told(census.shares(limit)), census.shared_out()


def _owner(named: Named) -> str:
    """Kind and key of the model that a row belongs to, empty where it belongs to none. Tables that people compute from
    results carry the key of the result, too."""
    for kind, column in KEYS.items():
        if column in named.key:
            return f"{kind} {named.key[column]}"
    return ""


def _told(shares: list[Share]) -> list[ModelUsage]:
    names: dict[str, str] = {}
    for kind, column in KEYS.items():
        keys = [key for share in shares for own, key in [share.owner.split()] if own == kind]
        there = [row[column] for row in (TABLES[kind]() & [{column: key} for key in keys]).proj().to_dicts()]
        names.update({f"{kind} {model.key}": model.name for model in models(kind, there)})
    told = []
    for share in shares:
        origin, key = share.owner.split()
        finished = origin != Kind.TRAINED or share.owner in names
        told.append(ModelUsage(key, origin if finished else UNFINISHED, names.get(share.owner, ""), share))
    return told
