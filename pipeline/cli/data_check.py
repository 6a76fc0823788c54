"""`trainloom data check`: whether packed data are whole, and whether their source still is what was packed."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pipeline.cli.context import open_session, print_json
from pipeline.cli.data_pack import listed


def add_actions(actions: Any) -> None:
    """Register the action."""
    check = actions.add_parser(
        "check",
        help="verify packed data, and compare them with their source; exit code 1 if either has changed",
        description="Read the shards of packed data and compare them with the manifest, and the source, which may be a "
        "query, with what was packed of it.",
    )
    check.add_argument("manifest", type=Path, metavar="MANIFEST", help="manifest.json of packed data, or its folder")
    check.add_argument("--shards-only", action="store_true", help="leave the source alone")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(action=_check)


def _check(args: argparse.Namespace) -> int:
    from datasets_impl import packed_manifest
    from pipeline.packed_check import differences, place_of, reopen

    read = packed_manifest.read(args.manifest)
    damaged = packed_manifest.damaged_shards(args.manifest, read)
    found = None
    if not damaged and not args.shards_only:
        from datasets_impl.packing_options import PackingOptions

        place = place_of(args.manifest, read)
        with open_session(args) if place.get("kind") == "query" else nullcontext() as session:
            connection = None if session is None else session.connection
            source = reopen(place, PackingOptions.from_json(read.options), connection)
            found = differences(args.manifest, source)
    if args.json:
        source_told = None if found is None else {"added": found.added, "gone": found.gone, "changed": found.changed}
        print_json({"damaged": damaged, "source": source_told})
        return 1 if damaged or found else 0
    for sentence in damaged:
        print(sentence)
    if found is not None:
        for word, names in (("changed", found.changed), ("added", found.added), ("gone", found.gone)):
            if names:
                print(f"{len(names)} rows of the source {word}: {listed(names)}")
    if not damaged and not found:
        source_is = "" if found is None else ", and the source is as it was"
        print(f"{len(read.shards)} shards with {sum(read.counts.values())} examples are whole{source_is}")
    return 1 if damaged or found else 0
