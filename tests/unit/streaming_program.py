"""A program with a streaming pipeline whose steps never return: `streaming_program.py FOLDER threads|processes`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from datasets_impl.streaming import SequentialQueuedPipeline
from tests.unit.streaming_steps import Hold, unchanged

if __name__ == "__main__":
    # A shell has what it runs in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pipeline = SequentialQueuedPipeline(
        [unchanged, ("hold", 2, Hold(Path(sys.argv[1])))], 1, max_queued_minibatches=1, use_processes=True
    )
    pipeline.transform(range(100))
