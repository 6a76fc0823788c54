"""What is asked of a packing: everything that changes what the packed files hold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets_impl.errors import DatasetError
from datasets_impl.image_codec import JPEG, KEEP, RAW, ImageForm
from datasets_impl.packed_column import (
    ARRAY,
    IMAGE,
    IMAGES,
    INPUT,
    RAGGED,
    ROLES,
    SHAPED,
    TARGET,
    TEXT,
    parse_dtype,
)
from datasets_impl.packed_shard import SUFFIXES
from datasets_impl.tier_split import TierSplit

STOP, SKIP = "stop", "skip"


@dataclass(frozen=True)
class ColumnOptions:
    """A column to pack.

    Attributes:
        name: of the column in the source and in the packed data.
        role: `input` or `target`.
        dtype: one of `packed_column.DTYPES`, after a `v` where lengths or shapes vary.
        image: whether its cells are images: names of files, or arrays of pixels in a source that has arrays.
    """

    name: str
    role: str
    dtype: str
    image: bool = False

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DatasetError(f"the role of column {self.name!r} is {self.role!r}: choose {' or '.join(ROLES)}.")
        if not self.name or "/" in self.name or self.name in (".", ".."):
            raise DatasetError(f"a column is called {self.name!r}: give it a name without a slash.")
        dtype, _ = parse_dtype(self.dtype, self.name)
        if self.image and dtype == "str":
            raise DatasetError(f"column {self.name!r} holds images, which are no text: give it a dtype of numbers.")

    @property
    def base(self) -> str:
        """The dtype without the `v`."""
        return parse_dtype(self.dtype, self.name)[0]

    @property
    def variable(self) -> bool:
        """Whether lengths or shapes may vary."""
        return parse_dtype(self.dtype, self.name)[1]


@dataclass(frozen=True, kw_only=True)
class PackingOptions:
    """How a source is packed.

    Attributes:
        columns: what is packed, in this order.
        split: how examples are divided among the tiers.
        sequence: cells of image columns name several files, separated by commas.
        height, width: what images are resized to; None, both of them, leaves them as they are.
        channels, encoder, quality, exif: see `image_codec.ImageForm`.
        classes: number of classes where the one target is a class index, which is then checked to be in [0, classes).
        shards: number of files; each holds a part of every tier.
        storage: `hdf5` or `npz`.
        unreadable: `stop` at an image that is missing or damaged, or `skip` it and say so in the manifest.

    Raises:
        DatasetError: they do not fit together.
    """

    columns: tuple[ColumnOptions, ...]
    split: TierSplit = field(default_factory=TierSplit)
    sequence: bool = False
    height: int | None = None
    width: int | None = None
    channels: int = 3
    encoder: str = JPEG
    quality: int = 90
    exif: str = KEEP
    classes: int | None = None
    shards: int = 1
    storage: str = "hdf5"
    unreadable: str = STOP

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        for role in ROLES:
            if not any(column.role == role for column in self.columns):
                raise DatasetError(f"no column is a{'n' * (role == INPUT)} {role}: name one of each.")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise DatasetError(f"the column {repeated[0]!r} is named twice: name it once.")
        if (self.height is None) != (self.width is None):
            raise DatasetError("only one of height and width is given: give both, or neither.")
        if isinstance(self.shards, bool) or not isinstance(self.shards, int) or not 1 <= self.shards <= 99_999:
            raise DatasetError(f"shards is {self.shards!r}: give a whole number from 1 to 99999.")
        if self.storage not in SUFFIXES:
            raise DatasetError(f"the storage is {self.storage!r}: choose one of {', '.join(SUFFIXES)}.")
        if self.unreadable not in (STOP, SKIP):
            raise DatasetError(f"unreadable is {self.unreadable!r}: choose {STOP} or {SKIP}.")
        self._check_classes()
        for column in self.columns:
            if column.image:
                self.form(column)
        if self.sequence and not self.images:
            raise DatasetError("sequence is for columns of images, and there is none: name one.")

    def _check_classes(self) -> None:
        if self.classes is None:
            return
        targets = [column for column in self.columns if column.role == TARGET]
        if isinstance(self.classes, bool) or not isinstance(self.classes, int) or self.classes < 1:
            raise DatasetError(f"classes is {self.classes!r}: give the number of classes, a positive integer.")
        if len(targets) > 1 or targets[0].image or "int" not in targets[0].base or targets[0].variable:
            raise DatasetError("classes is for one target of whole numbers: leave it out, or choose the target.")

    @property
    def images(self) -> tuple[str, ...]:
        """The names of the columns of images."""
        return tuple(column.name for column in self.columns if column.image)

    def form(self, column: ColumnOptions) -> ImageForm:
        """How the images of a column are stored."""
        size = None if self.height is None or self.width is None else (self.height, self.width)
        return ImageForm(self.channels, size, self.encoder, self.quality, self.exif, column.base)

    def kind(self, column: ColumnOptions) -> str:
        """How the examples of a column lie in arrays: a key of `packed_column.PARTS`."""
        if column.base == "str":
            return TEXT
        if column.image and self.encoder != RAW:
            return IMAGES if self.sequence else IMAGE
        if column.image and column.variable and not self.sequence:
            return SHAPED
        return RAGGED if column.variable else ARRAY

    def changed(self, **changes: Any) -> PackingOptions:
        """The same options but for some; a split, too, may be given in parts (`shares`, `seed`, …).

        Raises:
            DatasetError: an option is unknown, or they do not fit together.
        """
        parts = {name: changes.pop(name) for name in ("shares", "stratify", "seed") if name in changes}
        if parts:
            changes["split"] = dataclasses.replace(changes.get("split", self.split), **parts)
        if "dtypes" in changes:
            changes["columns"] = _with_dtypes(self.columns, changes.pop("dtypes"))
        unknown = sorted(changes.keys() - {entry.name for entry in dataclasses.fields(self)})
        if unknown:
            raise DatasetError(f"there is no option {unknown[0]!r}: correct its name.")
        return dataclasses.replace(self, **changes)

    def as_json(self) -> dict[str, Any]:
        """The options in a manifest: those that have an effect."""
        content = {
            entry.name: getattr(self, entry.name)
            for entry in dataclasses.fields(self)
            if entry.name not in ("columns", "split")
        }
        if not self.images:
            for name in ("sequence", "height", "width", "channels", "encoder", "quality", "exif", "unreadable"):
                del content[name]
        elif self.encoder != JPEG:
            del content["quality"]
        columns = [dataclasses.asdict(column) for column in self.columns]
        return {**content, "columns": columns, "split": self.split.as_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PackingOptions:
        """The inverse of `as_json`.

        Raises:
            DatasetError: the content is damaged.
        """
        try:
            columns = tuple(ColumnOptions(**column) for column in content["columns"])
            rest = {name: value for name, value in content.items() if name not in ("columns", "split")}
            return cls(columns=columns, split=TierSplit.from_json(content["split"]), **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"the options in the manifest are damaged ({error!r}): pack the data anew.") from error

    def digest(self) -> str:
        """The sha256 of the options."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _with_dtypes(columns: tuple[ColumnOptions, ...], dtypes: Mapping[str, str]) -> tuple[ColumnOptions, ...]:
    known = {column.name for column in columns}
    if unknown := sorted(dtypes.keys() - known):
        raise DatasetError(f"a dtype is given for {unknown[0]!r}, which is not packed: name one of {sorted(known)}.")
    return tuple(dataclasses.replace(column, dtype=dtypes.get(column.name, column.dtype)) for column in columns)
