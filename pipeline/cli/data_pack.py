"""`trainloom data pack`: files, tables of numbers and a lab's own tables made into data that a training reads fast."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import at_least_one, at_least_zero
from pipeline.cli.context import is_terminal, load_settings, open_session, print_json
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from datasets_impl.packing import Progress
    from datasets_impl.packing_options import PackingOptions
    from datasets_impl.packing_source import PackingSource

OPTIONS = ("height", "width", "channels", "encoder", "quality", "exif", "classes", "shards", "storage", "unreadable")
"""Arguments that are options of the packing under the same name."""
TENTHS = 10  # lines of progress where there is no terminal


def add_actions(actions: Any) -> None:
    """Register the action."""
    pack = actions.add_parser(
        "pack",
        help="pack files, tables of numbers or a lab's own tables into HDF5 or npz",
        description="Pack a list of files (--folder), tables of numbers, or rows of DataJoint tables (--from-table) "
        "into a folder NAME-KEY with a manifest, which a dataset configuration names as its dataset_file_name. Started "
        "again it goes on where it was; with other options it makes another folder.",
    )
    _add_sources(pack)
    _add_columns(pack)
    _add_images(pack)
    _add_split(pack)
    pack.add_argument("-o", "--output", type=Path, metavar="DIR", help="default: the data folder of the settings")
    pack.add_argument("--name", metavar="NAME", help="default: that of the source")
    pack.add_argument("--shards", type=at_least_one, metavar="N", help="number of files, 1 by default")
    pack.add_argument("--storage", choices=("hdf5", "npz"), help="hdf5 by default")
    pack.add_argument("--processes", type=at_least_one, metavar="N", help="default: one per core")
    pack.add_argument("--json", action="store_true", help="print JSON")
    pack.set_defaults(action=_pack)


def _add_sources(pack: argparse.ArgumentParser) -> None:
    sources = pack.add_argument_group("what is packed")
    sources.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="a CSV that names files; or tables: .csv .npy .npz .parquet …",
    )
    sources.add_argument("--folder", type=Path, metavar="DIR", help="where the files lie that the CSV names")
    sources.add_argument("--delimiter", default=",", metavar="C", help="between the cells of the CSV")
    sources.add_argument(
        "--from-table", nargs="+", default=[], metavar="SCHEMA.TABLE", help="DataJoint tables; several are joined"
    )
    sources.add_argument(
        "--restrict", action="append", default=[], metavar="SQL", help="a condition on their rows; may be repeated"
    )
    sources.add_argument(
        "--from", dest="previous", type=Path, metavar="MANIFEST", help="packed data, to pack again with other options"
    )


def _add_columns(pack: argparse.ArgumentParser) -> None:
    columns = pack.add_argument_group("columns")
    columns.add_argument("--input", type=_names, default=[], metavar="A,B", help="default: the first column, or images")
    columns.add_argument("--target", type=_names, default=[], metavar="A,B", help="default: the other columns")
    columns.add_argument("--image", type=_names, default=[], metavar="A,B", help="columns of images")
    columns.add_argument(
        "--dtype",
        type=_assignment,
        action="append",
        default=[],
        metavar="COLUMN=DTYPE",
        help="uint8 … float64 or str, after a v where lengths or sizes vary; may be repeated",
    )
    columns.add_argument(
        "--stack",
        type=_assignment,
        action="append",
        default=[],
        metavar="NAME=A,B",
        help="put columns of single numbers side by side in a new one",
    )
    columns.add_argument("--classes", type=at_least_one, metavar="N", help="the target is a class from 0 to N - 1")


def _add_images(pack: argparse.ArgumentParser) -> None:
    images = pack.add_argument_group("images")
    images.add_argument("--sequence", action="store_true", help="cells name several files, separated by commas")
    images.add_argument("--height", type=at_least_one, metavar="N", help="resize to this height, pixels")
    images.add_argument("--width", type=at_least_one, metavar="N", help="and this width")
    images.add_argument("--channels", type=int, choices=(1, 3, 4), help="3 by default")
    images.add_argument(
        "--encoder", choices=("jpeg", "png", "raw", "source"), help="jpeg by default; source: the files as they are"
    )
    images.add_argument("--quality", type=at_least_one, metavar="N", help="of JPEG, 1 to 95; 90 by default")
    images.add_argument("--exif", choices=("keep", "apply", "drop"), help="apply turns the pixels; keep by default")
    images.add_argument("--unreadable", choices=("stop", "skip"), help="at a missing or damaged image; stop by default")


def _add_split(pack: argparse.ArgumentParser) -> None:
    split = pack.add_argument_group("train, validation and test")
    split.add_argument("--split", type=_shares, metavar="A,B,C", help="shares, 0.8,0.1,0.1 by default")
    split.add_argument("--split-column", metavar="COLUMN", help="a column that names the tier of each example instead")
    split.add_argument("--stratify", metavar="COLUMN", help="a column in whose every value the shares hold")
    split.add_argument("--seed", type=at_least_zero, metavar="N", help="of the random split, 0 by default")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.strip() and value.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value.strip()


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers, separated by commas") from None


def _pack(args: argparse.Namespace) -> int:
    from datasets_impl import packed_manifest
    from datasets_impl.packing import lineage_of, pack

    _check_sources(args)
    read = packed_manifest.read(args.previous) if args.previous is not None else None
    from_tables = bool(args.from_table) or (read is not None and read.source.get("kind") == "query")
    with open_session(args) if from_tables else nullcontext() as session:
        connection = None if session is None else session.connection
        source, options = _asked(args, connection) if read is None else _changed(args, read, connection)
        previous = packed_manifest.FILE_NAME if read is None else args.previous
        with _progress(quiet=args.json) as progress:
            path = pack(
                source,
                _output(args),
                args.name or (read.name if read is not None else _name(args)),
                options,
                processes=args.processes or len(os.sched_getaffinity(0)),
                progress=progress,
                previous=previous if read is not None else None,
            )
    manifest = packed_manifest.read(path)
    if args.json:
        skipped = list(manifest.skipped)
        version = lineage_of(path).get("version", 1)
        print_json({"manifest": str(path), "counts": manifest.counts, "skipped": skipped, "version": version})
        return 0
    counts = ", ".join(f"{count} {tier}" for tier, count in manifest.counts.items())
    print(f"packed {counts}: {path}")
    for entry in manifest.skipped:
        print(f"skipped {entry['name']}: {entry['reason']}")
    return 0


def _check_sources(args: argparse.Namespace) -> None:
    given = [bool(args.sources), bool(args.from_table), args.previous is not None]
    if sum(given) != 1:
        raise ConfigurationError("give one of SOURCE, --from-table and --from: what is to be packed")
    if args.folder is not None and len(args.sources) != 1:
        raise ConfigurationError("--folder goes with one CSV that names files: give that as SOURCE")
    if args.restrict and not args.from_table:
        raise ConfigurationError("--restrict goes with --from-table: name a table, or leave it out")


def _asked(args: argparse.Namespace, connection: Any) -> tuple[PackingSource, PackingOptions]:
    """The source and the options that the arguments ask for."""
    from datasets_impl.column_choice import choose_columns
    from datasets_impl.packing_options import PackingOptions
    from datasets_impl.tier_split import TierSplit

    source = _opened(args, connection)
    split = TierSplit(
        column=args.split_column or "",
        stratify=args.stratify or "",
        **{name: value for name, value in (("shares", args.split), ("seed", args.seed)) if value is not None},
    )
    columns = choose_columns(
        source,
        inputs=args.input,
        targets=args.target,
        images=[] if args.folder is not None else args.image,
        dtypes=dict(args.dtype),
        apart=[split.column] if split.column else [],
    )
    return source, PackingOptions(columns=columns, split=split, sequence=args.sequence, **_given(args))


def _opened(args: argparse.Namespace, connection: Any) -> PackingSource:
    if args.from_table:
        from pipeline.query_source import QuerySource

        needed = [*args.input, *args.target, *filter(None, (args.split_column, args.stratify))]
        attributes = list(dict.fromkeys(needed)) if args.input and args.target else None
        return QuerySource(connection, args.from_table, args.restrict, attributes)
    if args.folder is not None:
        from datasets_impl.packing_source import FileList

        images = args.image or None
        return FileList(args.sources[0], args.folder, images=images, sequence=args.sequence, delimiter=args.delimiter)
    from datasets_impl.array_files import open_arrays

    return open_arrays(args.sources, stacked={name: _names(value) for name, value in args.stack})


def _changed(args: argparse.Namespace, read: Any, connection: Any) -> tuple[PackingSource, PackingOptions]:
    """The source of packed data, and their options but for those that the arguments change."""
    from datasets_impl.packing_options import PackingOptions
    from datasets_impl.tier_split import TierSplit
    from pipeline.packed_check import place_of, reopen

    changes: dict[str, Any] = _given(args)
    if args.split_column:
        changes["split"] = TierSplit(column=args.split_column)
    for name, value in (("shares", args.split), ("stratify", args.stratify), ("seed", args.seed)):
        if value is not None:
            changes[name] = value
    if args.dtype:
        changes["dtypes"] = dict(args.dtype)
    for name in ("input", "target", "image", "stack", "sequence"):
        if getattr(args, name):
            raise ConfigurationError(f"--{name} goes with a source and not with --from: pack the source anew")
    options = PackingOptions.from_json(read.options).changed(**changes)
    return reopen(place_of(args.previous, read), options, connection), options


def _given(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}


def _name(args: argparse.Namespace) -> str:
    """That of the table or of the first file."""
    return args.from_table[0].rpartition(".")[2] if args.from_table else Path(args.sources[0]).stem


def _output(args: argparse.Namespace) -> Path:
    """Where packed data go: beside the ones before, or the data folder."""
    if args.output is not None:
        return Path(args.output)
    if args.previous is not None:
        return Path(args.previous).resolve().parent.parent
    from pipeline.home import Home

    settings = load_settings(args)
    home = Home.find() if settings.dataset_dir is None else None
    folder = settings.dataset_dir or (home.dataset_dir if home is not None else None)
    if folder is None:
        raise ConfigurationError("there is no data folder here: give --output, set TRAINLOOM_DATASET_DIR, or run init")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress | None]:
    """A bar on a terminal, some lines elsewhere."""
    if quiet:
        yield None
    elif is_terminal():
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        with Progress(*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task("packing", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _Lines()


class _Lines:
    """Tells now and then how many rows are packed."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, done: int, total: int) -> None:
        tenth = TENTHS * done // max(1, total)
        if tenth > self._told:
            self._told = tenth
            print(f"packed {done} of {total}", flush=True)


def listed(names: Sequence[str], most: int = 3) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
