"""`python -m pipeline.liveness`: whether the worker of this container gets on, for the probes of Kubernetes and Docker.

Exit code 0 if it does, 1 if it is stuck or there is none, with a sentence. It asks no server, so that a database that
is away restarts nobody, and imports the standard library only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipeline import progress_file


def check(path: Path) -> tuple[bool, str]:
    """Whether the worker that writes this file gets on, and the sentence that says so."""
    try:
        age, limit = progress_file.read(path)
    except FileNotFoundError:
        return False, f"there is no progress file {path}: no worker has started here"
    except (OSError, ValueError) as error:
        return False, f"the progress file {path} cannot be read: {error}"
    if age < 0:
        return False, f"the progress file {path} was written before this machine started"
    if age > limit:
        return False, f"the worker has shown no life for {age:.0f} s; the limit is {limit:.0f} s"
    return True, f"the worker showed life {age:.0f} s ago"


def main(arguments: list[str]) -> int:
    """Check the file that is named, or that of the environment; returns the exit code."""
    path = arguments[0] if arguments else os.environ.get(progress_file.VARIABLE, "")
    if not path:
        print(f"no progress file is named; set {progress_file.VARIABLE}", file=sys.stderr)
        return 1
    lives, sentence = check(Path(path))
    print(sentence, file=sys.stdout if lives else sys.stderr)
    return 0 if lives else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
