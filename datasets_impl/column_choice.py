"""Which columns of a source are packed, as what, where not everything is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datasets_impl.packed_column import INPUT, NUMBERS, TARGET
from datasets_impl.packing_options import ColumnOptions
from datasets_impl.packing_source import ArrayTable, FileList, PackingError, PackingSource

FEATURES = "features"  # single numbers that are stacked


def choose_columns(
    source: PackingSource,
    *,
    inputs: Sequence[str] = (),
    targets: Sequence[str] = (),
    images: Sequence[str] = (),
    dtypes: Mapping[str, str] | None = None,
    apart: Sequence[str] = (),
) -> tuple[ColumnOptions, ...]:
    """The columns to pack.

    Args:
        inputs: by default the columns of images, else the first column; in a table of single numbers all but the
            targets, stacked into one column `features`.
        targets: by default every column that is neither an input nor `apart`; in a table of arrays the last one.
        images: columns of pixels, in a source that has arrays; those of a `FileList` are known.
        dtypes: column to dtype, as in the document's list: `uint8`, `vfloat32`, …; by default what the source has.
        apart: columns that are no data, such as that of the split.

    Raises:
        PackingError: a column is not there, or none is left.
    """
    dtypes = dict(dtypes or {})
    for name in (*inputs, *targets, *images, *apart, *dtypes):
        source.check_column(name)
    free = [name for name in source.columns if name not in apart]
    if isinstance(source, FileList):
        images = source.images
    elif isinstance(source, ArrayTable) and not inputs:
        targets = tuple(targets) or tuple(free[-1:])
        inputs = _features(source, [name for name in free if name not in targets])
    inputs = tuple(inputs) or tuple(images) or tuple(free[:1])
    targets = tuple(targets) or tuple(name for name in free if name not in inputs)
    if not targets:
        raise PackingError(f"{source} has no column left that could be a target: name one.")
    chosen = [*((name, INPUT) for name in inputs), *((name, TARGET) for name in targets)]
    return tuple(
        ColumnOptions(name, role, dtypes.get(name) or source.dtype(name), name in images) for name, role in chosen
    )


def _features(source: ArrayTable, names: Sequence[str]) -> tuple[str, ...]:
    single = all(source.column(name).ndim == 1 and source.dtype(name) in NUMBERS for name in names)
    if len(names) < 2 or not single:
        return tuple(names)
    source.stack(FEATURES, names)
    return (FEATURES,)
