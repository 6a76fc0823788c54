"""`trainloom store`: what the store holds, whether it is whole, and what can be freed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import at_least_one, seconds
from pipeline.cli.context import open_session, print_json, print_table

if TYPE_CHECKING:
    from pipeline.collector import Collection, Totals
    from pipeline.owned_objects import Named
    from pipeline.store.interface import Store, StoredObject

DAY = 86_400.0
"""Seconds; `pipeline.collector.GRACE`."""
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
NAMED = ("object", "table", "column", "row")


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("store", help="objects: list, measure, verify, free what no row names")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="the objects by sha256")
    listing.add_argument("--kind", metavar="KIND", help="only those of one kind, such as weights")
    listing.add_argument("--limit", type=at_least_one, metavar="N", help="at most N objects")
    usage = actions.add_parser("du", help="number and size of the objects by kind, and what no row names")
    verify = actions.add_parser(
        "verify", help="read objects and compare them with their sha256, by default all; exit code 1 if one is damaged"
    )
    verify.add_argument("objects", nargs="*", metavar="SHA256", help="objects, also as trainloom://SHA256")
    add_gc(actions)
    for action, run in ((listing, _ls), (usage, _du), (verify, _verify)):
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(action=run)


def add_gc(actions: Any) -> None:
    """Register garbage collection as an action of a command."""
    collect = actions.add_parser(
        "gc",
        help="say which objects no row names, and free them with --delete",
        description="Say which objects no row names, and free them with --delete, and with them unfinished uploads and "
        "live events of tasks that no longer exist. Rows whose object is missing are named and never deleted. Runs "
        "beside workers.",
    )
    collect.add_argument("--delete", action="store_true", help="free them; without it nothing is changed")
    collect.add_argument(
        "--grace",
        type=seconds,
        default=DAY,
        metavar="SECONDS",
        help="spare what was put within this time, a day by default; it must be longer than any worker takes from "
        "uploading an object to writing the row that names it",
    )
    collect.add_argument("--list", action="store_true", help="name every object that is freed or would be")
    collect.add_argument("--json", action="store_true", help="print JSON")
    collect.set_defaults(action=_gc)


def _ls(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        found = (stored for stored in session.store.list() if args.kind in (None, stored.kind))
        rows = [asdict(stored) for stored in islice(found, args.limit)]
    if args.json:
        print_json(rows)
    else:
        print_table(("object", "kind", "bytes", "created", "put last"), [_listed(row) for row in rows])
    return 0


def _listed(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["sha256"], row["kind"], row["size"], row["created"], row["marked"]


def _du(args: argparse.Namespace) -> int:
    from pipeline.collector import Collector

    with open_session(args) as session:
        owned, unowned = Collector(session).usage()
    if args.json:
        print_json({"owned": _totals(owned), "unowned": _totals(unowned)})
        return 0
    kinds = sorted(owned.keys() | unowned.keys())
    nothing = (0, 0)
    rows = [[kind or "-", *_shown(owned.get(kind, nothing)), *_shown(unowned.get(kind, nothing))] for kind in kinds]
    rows.append(["all", *_shown(_sum(owned)), *_shown(_sum(unowned))])
    print_table(("kind", "objects", "size", "named by no row", "size"), rows)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from pipeline.collector import Collector
    from pipeline.store.address import SCHEME, checked_sha256

    with open_session(args) as session:
        chosen = [checked_sha256(text.removeprefix(SCHEME)) for text in args.objects]
        missing = () if chosen else Collector(session).missing()
        digests: Iterable[str] = chosen or (stored.sha256 for stored in session.store.list())
        read = 0
        problems: list[tuple[str, str]] = []
        for sha256 in digests:
            read += 1
            problems.extend(_problem(session.store, sha256, listed=not chosen))
    if args.json:
        told = [{"sha256": sha256, "problem": problem} for sha256, problem in problems]
        print_json({"read": read, "problems": told, "missing": [_named(named) for named in missing]})
    else:
        for _, problem in problems:
            print(problem)
        _print_missing(missing)
        print(f"{read} objects read, {len(problems)} damaged or gone, {len(missing)} named by rows but not there")
    return 1 if problems or missing else 0


def _problem(store: Store, sha256: str, *, listed: bool) -> Iterator[tuple[str, str]]:
    """The sentence that says what is wrong with an object, if anything is; a listed one may have been deleted since."""
    from pipeline.store.errors import ObjectDamaged, ObjectMissing
    from pipeline.store.interface import PIECE

    try:
        with store.open(sha256) as stream:
            while stream.read(PIECE):
                pass
    except ObjectMissing as error:
        if not listed:
            yield sha256, str(error)
    except ObjectDamaged as error:
        yield sha256, str(error)


def _gc(args: argparse.Namespace) -> int:
    from datetime import timedelta

    from pipeline.collector import Collector

    listed: list[dict[str, Any]] = []

    def each(stored: StoredObject) -> None:
        if args.list and args.json:
            listed.append(asdict(stored))
        elif args.list:
            print(f"{stored.sha256}  {stored.kind or '-'}  {_size(stored.size)}")

    with open_session(args) as session:
        found = Collector(session).collect(timedelta(seconds=args.grace), delete=args.delete, each=each)
    if args.json:
        print_json({**_summary(found), **({"objects": listed} if args.list else {})})
    else:
        _print_collection(found)
    return 0


def _summary(found: Collection) -> dict[str, Any]:
    return {
        "deleted": found.deleted,
        "freed": _totals(found.freed),
        "young": _totals(found.young),
        "owned": _totals(found.owned),
        "renewed": found.renewed,
        "unfinished": {"number": found.unfinished[0], "bytes": found.unfinished[1]},
        "events": {"tasks": found.events[0], "number": found.events[1]},
        "missing": [_named(named) for named in found.missing],
    }


def _print_collection(found: Collection) -> None:
    if found.freed:
        print_table(("kind", "objects", "size"), [[kind or "-", *_shown(sum_)] for kind, sum_ in found.freed.items()])
    verb = "freed" if found.deleted else "would be freed"
    number, size = _sum(found.freed)
    print(f"{number} objects ({_size(size)}) that no row names {verb}")
    number, size = found.unfinished
    print(f"{number} unfinished uploads ({_size(size)}) {verb}")
    tasks, number = found.events
    if number:
        print(f"{number} events of {tasks} tasks that no longer exist {verb}")
    for count, what in (
        (_sum(found.young)[0], "objects are named by no row yet but too young to be freed"),
        (found.renewed, "objects stayed, as they were put again meanwhile"),
    ):
        if count:
            print(f"{count} {what}")
    _print_missing(found.missing)
    if not found.deleted and (found.freed or found.unfinished[0] or found.events[1]):
        print("nothing was changed; `trainloom store gc --delete` frees them")


def _print_missing(missing: Iterable[Named]) -> None:
    rows = [(named.sha256, named.table, named.column, _row(named)) for named in missing]
    if rows:
        print(f"{len(rows)} rows name an object that is not there; restore it from a backup, or delete the rows")
        print_table(NAMED, rows)


def _row(named: Named) -> str:
    return ", ".join(f"{name}={value}" for name, value in named.key.items())


def _named(named: Named) -> dict[str, Any]:
    return {"sha256": named.sha256, "table": named.table, "column": named.column, "key": named.key}


def _totals(totals: Totals) -> dict[str, Any]:
    return {kind: {"number": number, "bytes": size} for kind, (number, size) in totals.items()}


def _sum(totals: Totals) -> tuple[int, int]:
    return sum(number for number, _ in totals.values()), sum(size for _, size in totals.values())


def _shown(total: tuple[int, int]) -> tuple[int, str]:
    return total[0], _size(total[1])


def _size(count: float) -> str:
    """Bytes as people read them."""
    for unit in UNITS[:-1]:
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} {UNITS[-1]}"
