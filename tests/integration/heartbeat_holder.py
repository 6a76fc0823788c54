"""A worker for the tests of the heartbeat: `python heartbeat_holder.py`, then one JSON line on standard input that says
what to hold, then one command per line; every command is answered by one line."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

from pipeline.heartbeat import Heartbeat, Lease
from pipeline.settings import Database


def answer(lease: Lease, command: str) -> Any:
    if command == "lost":
        return lease.lost
    if command == "fork":  # a child that outlives us and has our pipes
        child = os.fork()
        if child == 0:
            while True:
                signal.pause()
        return child
    print(json.dumps("in C"), flush=True)
    ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the GIL
    return "back"


def main() -> None:
    told = json.loads(sys.stdin.readline())
    heartbeat = Heartbeat(Database(**told["database"]), interval=told["interval"], stall_limit=600.0)
    lease = heartbeat.hold(**told["hold"])
    print(json.dumps(heartbeat.process_id), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(lease, line.strip())), flush=True)


if __name__ == "__main__":
    main()
