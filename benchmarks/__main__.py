"""`python -m benchmarks [name …] [--pairs N]`: measure, print, and write RESULTS.md when all were measured."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

from benchmarks.comparison import Check, Comparison
from benchmarks.report import page

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
    names = arguments.names or list(PAIRS)
    load = os.getloadavg()[0]
    results: dict[str, list[Comparison | Check]] = {}
    for name in names:
        print(f"measuring {name}", flush=True)
        results[name] = importlib.import_module(f"benchmarks.{name}").measure(arguments.pairs or PAIRS[name])
    text = page(results, load)
    print(text)
    if set(names) == set(PAIRS):
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
