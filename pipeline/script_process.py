"""The child process in which a script runs. It imports nothing of ours: the script is to find a fresh Python.

Its one argument is a folder with `task.json` and the script; it leaves `outcome.json` there.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

MOST_RESULTS = 1 << 20  # characters of all results: larger ones are datasets
MOST_TRACE = 1 << 15  # characters
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
TASK, OUTCOME = "task.json", "outcome.json"


def main(folder: Path) -> int:
    """Run the script; the exit code is 0 if it came to its end and left what was asked for."""
    task = json.loads((folder / TASK).read_text(encoding="utf-8"))
    _die_with(task["parent"])
    sys.path.insert(0, task["code_dir"])
    sys.argv = [task["path"]]
    try:
        left = runpy.run_path(task["path"], init_globals=task["globals"], run_name="__main__")
        for name in task["result_keys"]:
            if name not in left:
                raise NameError(f"the script left no {name}: assign it at the top level of the script")
        text = json.dumps({"results": {name: left[name] for name in task["result_keys"]}}, default=_plain)
        if len(text) > MOST_RESULTS:
            raise ValueError(f"the results take {len(text)} characters, more than {MOST_RESULTS}; save them as dataset")
    except SystemExit as error:
        if error.code in (None, 0) and not task["result_keys"]:
            text = json.dumps({"results": {}})
        else:
            text = _failure(error, f"the script ended itself by sys.exit({error.code!r}) before its results were taken")
    except BaseException as error:
        text = _failure(error)
    sys.stdout.flush()
    sys.stderr.flush()
    whole = folder / f"{OUTCOME}.part"
    whole.write_text(text, encoding="utf-8")
    whole.rename(folder / OUTCOME)
    return 0 if "results" in json.loads(text) else 1


def _die_with(parent: int) -> None:
    """Have the kernel kill this process with its parent, also where that is killed itself."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)


def _plain(value: Any) -> Any:
    """NumPy and torch numbers and arrays as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a result is a {type(value).__name__}, which cannot be kept: use numbers, text, lists and dicts")


def _failure(error: BaseException, message: str = "") -> str:
    trace = "".join(traceback.format_exception(error))
    kinds = [kind.__name__ for kind in type(error).__mro__]
    described = message or "".join(traceback.format_exception_only(error)).strip()
    return json.dumps({"error": described[-MOST_TRACE:], "kinds": kinds, "trace": trace[-MOST_TRACE:]})


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
