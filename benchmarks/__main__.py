"""`python -m benchmarks [name …] [--pairs N]`: measure, print, and write what was measured into RESULTS.md."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

from benchmarks.report import page, section, sections_of, title

PAIRS = {
    "training": 40,
    "trainer": 24,
    "reporting": 20,
    "insertion": 30,
    "startup": 30,
    "queue_throughput": 15,
    "lease_cost": 40,
    "server_load": 10,
    "events": 15,
    "store_transfer": 15,
    "mongo_data": 15,
    "model_search": 30,
    "packing": 10,
    "packed_reading": 15,
    "streaming": 15,
}
RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> None:
    """Run the benchmarks that the command line names, by default all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", choices=[[], *PAIRS], help=", ".join(PAIRS))
    parser.add_argument("--pairs", type=int, help="pairs of runs for each ratio; 15 or more decide something")
    arguments = parser.parse_args()
    for name in arguments.names or PAIRS:
        print(f"measuring {name}", flush=True)
        load = os.getloadavg()[0]
        measures = importlib.import_module(f"benchmarks.{name}").measure(arguments.pairs or PAIRS[name])
        text = section(name, measures, load)
        print(text, flush=True)
        _write(name, text)


def _write(name: str, text: str) -> None:
    """Put a section where it belongs; those of the other benchmarks stay as they were measured."""
    found = sections_of(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    found[title(name)] = text
    RESULTS.write_text(
        page({title(each): found[title(each)] for each in PAIRS if title(each) in found}), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
